package gateway

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// put makes an instance's data.
func (c *cuts) put(instance, data string) {
	c.Helper()
	if err := os.WriteFile(c.at(instance, "data"), []byte(data), 0o600); err != nil {
		c.Fatal(err)
	}
}

// data returns an instance's data.
func (c *cuts) data(instance string) string {
	c.Helper()
	data, err := os.ReadFile(c.at(instance, "data"))
	if err != nil {
		c.Fatal(err)
	}
	return string(data)
}

// submit asks the gateway for a job until it has one. A job that the gateway died with
// before it was asked for is not there.
func (c *cuts) submit(method, path, body string) (j wire.ServiceJob) {
	c.Helper()
	componenttest.Eventually(c, "the job is taken", func() bool {
		r, err := c.try("tok", method, path, body)
		return err == nil && r.status == 200 && json.Unmarshal([]byte(r.body), &j) == nil && j.ID != ""
	})
	return j
}

// ended waits until a job has ended, whoever dies and comes again meanwhile.
func (c *cuts) ended(instance, id string) (j wire.ServiceJob) {
	c.Helper()
	componenttest.Eventually(c, "the job ends", func() bool {
		r, err := c.try("tok", "GET", configurations+"/"+instance+"/jobs/"+id, "{}")
		return err == nil && r.status == 200 && json.Unmarshal([]byte(r.body), &j) == nil && j.CompletedAt != nil
	})
	return j
}

func (c *cuts) list(instance string) (list []wire.Snapshot) {
	c.Helper()
	var doc struct{ Snapshots []wire.Snapshot }
	c.call("GET", configurations+"/"+instance+"/snapshots", "{}", &doc)
	return doc.Snapshots
}

// files returns what is in an instance's folder of snapshots.
func (c *cuts) files(instance string) (names []string) {
	entries, _ := os.ReadDir(filepath.Join(c.snapshots, cutNode, instance))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSnapshotsCut: gateway or node is killed at each step of a snapshot and of a
// rollback. The job goes on and ends, what is rolled back is whole, users are let in
// again, and no half-written file is left.
func TestSnapshotsCut(t *testing.T) {
	t.Parallel()
	c := newCuts(t)
	h := c.made(configurations, wantedInstance)
	name := h.ServiceID
	of := configurations + "/" + name
	const first, second = "what was there first", "what came afterwards, and is longer"
	c.put(name, first)
	kept := c.ended(name, c.submit("POST", of+"/snapshots", `{"name":"kept"}`).ID)
	if kept.Status != wire.JobCompleted || kept.Snapshot == nil || kept.Snapshot.Size != int64(len(first)) || kept.Snapshot.Name != "kept" {
		t.Fatalf("a snapshot: %+v", kept)
	}
	reached := filepath.Join(string(c.drawer), "reached")
	pause := filepath.Join(string(c.drawer), "pause")
	for _, who := range []string{"node", "gateway"} {
		for _, where := range []string{"dump, half", "dump, after", "load, before", "load, half", "load, after", "enable, before", "enable, after"} {
			t.Run(fmt.Sprint(who, " at ", where), func(*testing.T) {
				c.put(name, second)
				if err := os.WriteFile(pause, []byte(where), 0o600); err != nil {
					t.Fatal(err)
				}
				_ = os.Remove(reached) // of an earlier pause, if there was one
				var j wire.ServiceJob
				if where[:4] == "dump" {
					j = c.submit("POST", of+"/snapshots", ``)
				} else {
					j = c.submit("PUT", of+"/snapshots/"+kept.SnapshotID, `{}`)
				}
				componenttest.Eventually(t, "the job is at "+where, func() bool { _, err := os.Stat(reached); return err == nil })
				// One at a time; and while users are kept out nothing is done to them.
				c.fails(503, 30600, "tok", "POST", of+"/snapshots", `{}`)
				if where[:4] == "load" {
					c.fails(503, 30600, "tok", "POST", of+"/handles", wantedBinding)
				}
				c.kill(who)
				c.remove(pause)
				c.begin(who)
				c.settled()
				done := c.ended(name, j.ID)
				if done.Status != wire.JobCompleted {
					t.Fatalf("%s killed at %q: %+v, %+v", who, where, done, done.Error)
				}
				if _, err := os.Stat(c.at(name, "closed")); !os.IsNotExist(err) {
					t.Errorf("users are kept out: %v", err)
				}
				if where[:4] != "dump" {
					if got := c.data(name); got != first {
						t.Errorf("rolled back to %q", got)
					}
					return
				}
				list := c.list(name)
				if len(list) != 2 || list[1].ID != j.SnapshotID || list[1].Size != int64(len(second)) || len(c.files(name)) != 4 {
					t.Errorf("snapshots: %+v, %v", list, c.files(name))
				}
				if d := c.ended(name, c.submit("DELETE", of+"/snapshots/"+j.SnapshotID, ``).ID); d.Status != wire.JobCompleted || len(c.files(name)) != 2 {
					t.Errorf("deleting: %+v, %v", d, c.files(name))
				}
			})
		}
	}

	// A node that dies at the same job again and again gives it up in the end.
	if err := os.WriteFile(pause, []byte("dump, half"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(reached)
	j := c.submit("POST", of+"/snapshots", ``)
	for range 3 {
		componenttest.Eventually(t, "the job is under way", func() bool { _, err := os.Stat(reached); return err == nil })
		c.kill("node")
		c.remove(reached)
		c.begin("node")
	}
	if done := c.ended(name, j.ID); done.Status != wire.JobFailed || done.Error == nil || done.Attempts != 3 {
		t.Errorf("a job that kills its node: %+v", done)
	}
	c.remove(pause)
	c.settled()

	// The most are three; then one must go.
	for range 2 {
		c.ended(name, c.submit("POST", of+"/snapshots", ``).ID)
	}
	c.fails(503, 30600, "tok", "POST", of+"/snapshots", `{}`)
	if n := len(c.files(name)); n != 6 {
		t.Errorf("%d files: %v", n, c.files(name))
	}
	for path, code := range map[string]int{"/snapshots/9-none": 404, "/snapshots/%2e%2e": 400} {
		r, err := c.try("tok", "PUT", of+path, "{}")
		if err != nil || r.status != code {
			t.Errorf("%s: %+v, %v", path, r, err)
		}
	}
	// A service that is deleted takes its snapshots along.
	c.call("DELETE", of, "{}", nil)
	c.forget(name)
	if left := c.files(name); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if jobs, err := os.ReadDir(filepath.Join(c.base, "jobs")); err != nil || len(jobs) != 0 {
		t.Errorf("jobs are left: %v, %v", jobs, err)
	}
}
