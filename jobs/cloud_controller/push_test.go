package cloudcontroller

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestPush does what `vmc push` does, call by call.
func TestPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("0-d")
	w.stager(func(request wire.StagingRequest, files []byte) ([]byte, string, string) {
		if request.Properties.Framework != "node" || request.Properties.RuntimeInfo.Executable != "node" || request.Properties.Resources.Memory != 64 {
			return nil, "", "unexpected properties"
		}
		return []byte("droplet of " + sum(files)), "-----> staged", ""
	})
	_, err := w.conn.Subscribe(wire.SubjectHealthManagerHealth, func(m *nats.Msg) {
		request, err := wire.ParseHealthRequest(m.Data)
		if err != nil {
			t.Error(err)
			return
		}
		for _, droplet := range request.Droplets {
			data, _ := json.Marshal(wire.Health{Droplet: droplet.Droplet, Version: droplet.Version, Healthy: 2})
			_ = m.Respond(data)
		}
	})
	must(t, err)
	updated := w.subscribe(wire.SubjectDropletUpdated)
	u := c.register("dev@example.com")

	var info struct {
		User  string
		Usage map[string]int
	}
	u.call("GET", "/info", nil).want(200).json(&info)
	if info.User != "dev@example.com" || info.Usage == nil {
		t.Errorf("/info says %+v", info)
	}
	u.call("GET", "/apps/hello", nil).fails(404, 301)
	created := u.call("POST", "/apps", map[string]any{
		"name": "hello", "staging": map[string]any{"framework": "node", "runtime": nil},
		"uris": []string{"Hello.cf.localhost"}, "instances": 2, "resources": map[string]int{"memory": 64},
	}).want(302)
	if at := created.Header.Get("Location"); at != "http://api.cf.localhost/apps/hello" ||
		created.Body != `{"redirect":"http://api.cf.localhost/apps/hello","result":"success"}` {
		t.Errorf("created at %s: %s", at, created.Body)
	}
	files := zipOf(t, map[string]string{"app.js": "listen()"})
	u.upload("hello", files, "[]").want(200)

	doc := u.document("hello")
	if doc["state"] != "STOPPED" || doc["runningInstances"] != float64(0) {
		t.Errorf("before the start: %v", doc)
	}
	u.put("hello", map[string]any{"state": "STARTED", "debug": nil, "console": nil}).want(200)

	seen := map[int]bool{}
	for range 2 {
		start := received(t, d.starts)
		seen[start.Index] = true
		if start.Droplet != "1" || start.Version != start.SHA1+"-1" || start.Limits != (wire.Limits{Mem: 64, Disk: 2048, FDs: 256}) ||
			start.URIs[0] != "hello.cf.localhost" || start.Users[0] != "dev@example.com" || start.CCPartition != "default" || start.RuntimeInfo.Executable != "node" {
			t.Errorf("start document: %+v", start)
		}
		response, err := http.Get(start.ExecutableURI)
		must(t, err)
		droplet, err := io.ReadAll(response.Body)
		must(t, err)
		response.Body.Close()
		if sum(droplet) != start.SHA1 || !strings.HasPrefix(string(droplet), "droplet of ") {
			t.Errorf("the droplet is %q, its sha1 said to be %s", droplet, start.SHA1)
		}
	}
	if !seen[0] || !seen[1] {
		t.Errorf("started %v", seen)
	}
	if m := next(t, updated, wire.ParseDropletUpdated); m.Droplet != "1" || m.CCPartition != "default" {
		t.Errorf("droplet.updated: %+v", m)
	}
	doc = u.document("hello")
	if doc["state"] != "STARTED" || doc["runningInstances"] != float64(2) {
		t.Errorf("after the start: %v", doc)
	}
	var instances struct{ Instances []shownInstance }
	u.call("GET", "/apps/hello/instances", nil).want(200).json(&instances)
	if len(instances.Instances) != 2 || instances.Instances[1].State != "RUNNING" || instances.Instances[1].Since != 1343815200 {
		t.Errorf("instances: %+v", instances)
	}
	var stats map[string]struct {
		State string
		Stats wire.InstanceStats
	}
	u.call("GET", "/apps/hello/stats", nil).want(200).json(&stats)
	if len(stats) != 2 || stats["0"].State != "RUNNING" || stats["0"].Stats.Usage.Mem != 20480 || stats["0"].Stats.MemQuota != 64<<20 {
		t.Errorf("stats: %+v", stats)
	}
	if log := u.call("GET", "/apps/hello/instances/0/files/logs%2Fstaging.log", nil).want(200); log.Body != "-----> staged" {
		t.Errorf("staging log: %q", log.Body)
	}
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	if stop := received(t, d.stops); stop.Droplet != "1" || stop.Instances != nil || stop.Version != "" {
		t.Errorf("stop: %+v", stop)
	}
	u.call("DELETE", "/apps/hello", nil).want(200)
	u.call("GET", "/apps/hello", nil).fails(404, 301)
}

// The health manager finds the API with what it is told on the bus.
func TestBulk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("admin_password: \"\"\n")
	u := c.register("dev@example.com")
	for _, name := range []string{"a", "b", "c"} {
		u.create(name)
	}
	for _, subject := range []string{wire.SubjectBulkCredentials, wire.SubjectBulkCredentials + ".default"} {
		m, err := w.conn.Request(subject, nil, deadline)
		must(t, err)
		credentials, err := wire.ParseBulkCredentials(m.Data)
		must(t, err)
		hm := &client{c: c}
		header := http.Header{}
		request := http.Request{Header: header}
		request.SetBasicAuth(credentials.User, credentials.Password)
		seen, token := 0, "{}"
		for {
			bulk, err := wire.ParseBulkApps([]byte(hm.do("GET", "/bulk/apps?batch_size=2&bulk_token="+token, header, nil).want(200).Body))
			must(t, err)
			if len(bulk.Results) == 0 {
				break
			}
			seen += len(bulk.Results)
			token = string(bulk.BulkToken)
		}
		if seen != 3 {
			t.Errorf("%d apps", seen)
		}
		for model, body := range map[string]string{"user": `{"counts":{"user":1}}`, "app": `{"counts":{"app":3}}`} {
			if got := hm.do("GET", "/bulk/counts?model="+model, header, nil).want(200).Body; got != body {
				t.Errorf("counts: %s, want %s", got, body)
			}
		}
		hm.do("GET", "/bulk/counts?model=other", header, nil).fails(400, 100)
	}
	(&client{c: c}).call("GET", "/bulk/apps", nil).want(401)
}
