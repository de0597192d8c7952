package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// SubjectStaging is the usual queue of staging requests, answered with
// StagingAnswer. A stager subscribes each queue of its configuration in a queue
// group of the same name, so that one stager gets each request.
const SubjectStaging = "staging"

// StagingTimeout is the time that the original controller waits for the answer, and
// how long its stager lets a plugin run.
const StagingTimeout = 120 * time.Second

// StagingRequest asks for a droplet made of an app's files.
type StagingRequest struct {
	AppID      ID                `json:"app_id"`
	Properties StagingProperties `json:"properties"`
	// DownloadURI is the place where the files are (a zip, GET) and UploadURI where the
	// droplet goes (a multipart POST). Both may hold user and password, so they
	// are not for logs.
	DownloadURI string `json:"download_uri"`
	UploadURI   string `json:"upload_uri"`
	// The secure ones are the same over TLS with certificates of the deployment's CA,
	// for stagers that have one; "": the controller has none.
	SecureDownloadURI string `json:"secure_download_uri,omitempty"`
	SecureUploadURI   string `json:"secure_upload_uri,omitempty"`
	// Owner is the number of the account whose app it is: stagers give none all their places.
	Owner string `json:"owner,omitempty"`
}

// StagingProperties say what kind of app it is. A plugin sees them as its
// environment.
type StagingProperties struct {
	Services      []BoundService `json:"services"`
	Framework     string         `json:"framework"`
	FrameworkInfo FrameworkInfo  `json:"framework_info"`
	Runtime       string         `json:"runtime"`
	// RuntimeInfo is absent from the older dialect, where stagers know runtimes by
	// name.
	RuntimeInfo RuntimeInfo      `json:"runtime_info"`
	Resources   StagingResources `json:"resources"`
	Environment []string         `json:"environment"` // "K=V"
	Meta        StagingMeta      `json:"meta"`
}

// StagingResources are an instance's limits.
type StagingResources struct {
	Memory int `json:"memory"` // MB
	Disk   int `json:"disk"`   // MB
	FDs    int `json:"fds"`
}

// StagingMeta describes what else the app's owner asked for.
type StagingMeta struct {
	Debug   *string `json:"debug"`   // nil, "run" or "suspend"
	Console *bool   `json:"console"` // nil: not asked for
	// Command starts a standalone app.
	Command string `json:"command,omitempty"`
}

// FrameworkInfo is a framework's manifest: which runtimes it can have and which
// files tell that an app is one of its kind.
type FrameworkInfo struct {
	Name     string                        `json:"name"`
	Runtimes []map[string]FrameworkRuntime `json:"runtimes,omitempty"`
	// Detection is a list of patterns of file names; each maps to a regular
	// expression that the file's text matches, or to whether such a file is there.
	Detection []map[string]any `json:"detection,omitempty"`
}

// FrameworkRuntime is a runtime's place in a framework.
type FrameworkRuntime struct {
	Default bool `json:"default"` // taken when the app names none
}

// StagingAnswer ends a staging.
type StagingAnswer struct {
	TaskID string `json:"task_id"`
	// TaskLog is for the app's owner: what the stager and its plugin wrote.
	TaskLog string `json:"task_log"`
	// Error is absent when the droplet was uploaded.
	Error string `json:"error,omitempty"`
}

// ParseStagingRequest decodes and validates a request.
func ParseStagingRequest(data []byte) (StagingRequest, error) {
	var r StagingRequest
	if err := json.Unmarshal(data, &r); err != nil {
		return StagingRequest{}, fmt.Errorf("cannot read a staging request: %w", err)
	}
	if r.AppID == "" {
		return StagingRequest{}, errors.New("cannot use a staging request without app_id")
	}
	if r.Properties.Framework == "" {
		r.Properties.Framework = r.Properties.FrameworkInfo.Name
	}
	if r.Properties.Framework == "" {
		return StagingRequest{}, fmt.Errorf("cannot use a staging request of app %s without framework", r.AppID)
	}
	if r.Properties.Runtime == "" {
		r.Properties.Runtime = r.Properties.RuntimeInfo.Name
	}
	for _, uri := range []struct{ name, value string }{
		{"download_uri", r.DownloadURI}, {"upload_uri", r.UploadURI}, {"secure_download_uri", r.SecureDownloadURI}, {"secure_upload_uri", r.SecureUploadURI},
	} {
		if uri.value == "" && strings.HasPrefix(uri.name, "secure_") {
			continue
		}
		// Without url.Parse's error, which has the URI and the password in it.
		u, err := url.Parse(uri.value)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return StagingRequest{}, fmt.Errorf("cannot use a staging request of app %s: its %s is not an http URL", r.AppID, uri.name)
		}
	}
	return r, nil
}

// ParseStagingAnswer decodes a stager's answer. An answer with Error set is read
// without an error.
func ParseStagingAnswer(data []byte) (StagingAnswer, error) {
	var a StagingAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return StagingAnswer{}, fmt.Errorf("cannot read a stager's answer: %w", err)
	}
	return a, nil
}
