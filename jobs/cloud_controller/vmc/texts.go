package vmc

import (
	"context"
	"encoding/base64"
	"fmt"
	"unicode/utf8"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// fileText is a file of an instance, or the list of a folder, for machines.
type fileText struct {
	App      string `json:"app"`
	Instance string `json:"instance"` // its index or id
	Path     string `json:"path"`
	Text     string `json:"text"`
	// Base64 has what is no text, which Text then is not.
	Base64 string `json:"base64,omitempty"`
}

// newFileText makes one of what was read.
func newFileText(app, instance, path string, data []byte) fileText {
	t := fileText{App: app, Instance: instance, Path: path}
	if utf8.Valid(data) {
		t.Text = string(data)
	} else {
		t.Base64 = base64.StdEncoding.EncodeToString(data)
	}
	return t
}

// fileError says which file could not be read, and where to look for others.
func fileError(err error, app, instance, path string) error {
	if client.Is(err, client.CodeNoFile) {
		return fmt.Errorf("cannot read %q of instance %s of %s: %w; vmc files %s lists what there is", path, instance, app, err, app)
	}
	return err
}

// serviceError says which service is not there.
func serviceError(err error, name string) error {
	if client.Is(err, client.CodeServiceGone) {
		return fmt.Errorf("service %q: %w; vmc services lists yours", name, err)
	}
	return err
}

// ofService makes a command's work name the service, its first argument, that is not
// there.
func ofService(run func(context.Context, *client.Client, []string) error) func(context.Context, *client.Client, []string) error {
	return func(ctx context.Context, c *client.Client, args []string) error {
		return serviceError(run(ctx, c, args), args[0])
	}
}
