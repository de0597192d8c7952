package api

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/hosts"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// bare returns a server that can judge requests, and nothing else.
func bare(t testing.TB) *Server {
	t.Helper()
	cfg := config.Defaults()
	cfg.ExternalURI = "api.cf.localhost"
	catalog, err := model.NewCatalog("", "")
	if err != nil {
		t.Fatal(err)
	}
	live := config.NewLive(cfg)
	return New(Deps{Config: live, Catalog: catalog, Hosts: hosts.New(hosts.Deps{Config: live})})
}

// FuzzAppRequest: whatever a client sends, an app that comes of it is one that
// DEAs can be told of.
func FuzzAppRequest(f *testing.F) {
	f.Add(`{"name":"a","staging":{"framework":"node","runtime":null},"uris":["a.cf.localhost"],"instances":1,"resources":{"memory":64}}`)
	f.Add(`{"staging":{"model":"standalone","stack":"python","command":"x"},"env":["A=b"],"debug":null,"console":true,"instances":"7","meta":{"version":3,"command":"y"}}`)
	f.Add(`{"staging":{},"resources":{"memory":1e3,"disk":-1,"fds":"x"},"uris":["*.cf.localhost","http://x/"]}`)
	c := bare(f)
	f.Fuzz(func(t *testing.T, text string) {
		var body appRequest
		if json.Unmarshal([]byte(text), &body) != nil {
			return
		}
		app := store.App{Spec: store.Spec{Instances: 1, Memory: 64, Disk: 64, FDs: 64, Framework: "node", Runtime: "node"}}
		if c.change(&app, body, model.Account{}) != nil {
			return
		}
		if app.Instances < 0 || app.Instances > 100 || app.Memory < 1 || app.Disk < 1 || app.FDs < 1 {
			t.Errorf("%s makes %+v", text, app)
		}
		if _, _, err := c.Catalog.Resolve(app.Framework, app.Runtime); err != nil {
			t.Errorf("%s makes an app of %s and %s", text, app.Framework, app.Runtime)
		}
		for _, host := range app.URIs {
			if !strings.HasSuffix(host, ".cf.localhost") || strings.ContainsAny(host, "/*: ") || host != strings.ToLower(host) || host == "api.cf.localhost" {
				t.Errorf("%s gets the host %q", text, host)
			}
		}
		for _, entry := range app.Environment {
			if name, _, ok := strings.Cut(entry, "="); !ok || name == "" || strings.HasPrefix(strings.ToLower(name), "vcap_") {
				t.Errorf("%s gets the variable %q", text, entry)
			}
		}
	})
}

// FuzzResources: the list of an upload's form.
func FuzzResources(f *testing.F) {
	f.Add(`[{"size":91,"sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709","fn":"a/b","mode":420}]`)
	f.Add(`[{"size":"91","mode":-1}]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseResources([]byte(text))
		if err != nil {
			return
		}
		for _, r := range list {
			if r.Mode&^fs.ModePerm != 0 {
				t.Errorf("%s has mode %v", text, r.Mode)
			}
		}
	})
}
