package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// fileOf returns a file with its first line.
func fileOf(t testing.TB, service, data string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(data))
	line, err := wire.SerializedHead{Service: service, Version: "1.0", Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}.Line()
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + data
}

// read returns a file as the gateway sends it.
func (c *cuts) read(path string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path), nil)
	if err != nil {
		c.Fatal(err)
	}
	request.Header.Set("X-VCAP-Service-Token", "tok")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, data)
	}
	return string(data), err
}

// TestSerializedCut: gateway or node is killed at each step of an export and of an import.
// The job goes on and ends, what is imported is whole, users are let in again, and no file
// is left.
func TestSerializedCut(t *testing.T) {
	t.Parallel()
	c := newCuts(t)
	name := c.made(configurations, wantedInstance).ServiceID
	of := configurations + "/" + name
	first, second := strings.Repeat("what was there first ", 100_000), "what came afterwards"
	c.put(name, first)
	kept := c.ended(name, c.submit("POST", of+"/snapshots", `{"name":"kept"}`).ID)
	reached, pause := filepath.Join(string(c.drawer), "reached"), filepath.Join(string(c.drawer), "pause")
	file := fileOf(t, "nothing", "file:"+first)
	for _, who := range []string{"node", "gateway"} {
		for _, where := range []string{"serialize, before", "serialize, after", "load, before", "load, half", "load, after", "enable, before", "enable, after"} {
			t.Run(fmt.Sprint(who, " at ", where), func(*testing.T) {
				c.put(name, second)
				if err := os.WriteFile(pause, []byte(where), 0o600); err != nil {
					t.Fatal(err)
				}
				_ = os.Remove(reached) // of an earlier pause, if there was one
				exports := strings.HasPrefix(where, "serialize")
				var j wire.ServiceJob
				if exports {
					j = c.submit("POST", of+"/serialized/url/snapshots/"+kept.SnapshotID, `{}`)
				} else {
					j = c.submit("PUT", of+"/serialized/data", file)
				}
				componenttest.Eventually(t, "the job is at "+where, func() bool { _, err := os.Stat(reached); return err == nil })
				c.fails(503, 30600, "tok", "PUT", of+"/serialized/data", file)
				if !exports {
					c.fails(503, 30600, "tok", "POST", of+"/handles", wantedBinding)
				}
				c.kill(who)
				c.remove(pause)
				c.begin(who)
				c.settled()
				if done := c.ended(name, j.ID); done.Status != wire.JobCompleted {
					t.Fatalf("%s killed at %q: %+v, %+v", who, where, done, done.Error)
				}
				if exports {
					got, err := c.read(of + "/serialized/snapshots/" + kept.SnapshotID + "/data")
					if line, rest, _ := strings.Cut(got, "\n"); err != nil || rest != "file:"+first || !strings.Contains(line, `"service":"nothing"`) {
						t.Errorf("an export: %d bytes after %q, %v", len(rest), line, err)
					}
					return
				}
				if got := c.data(name); got != first {
					t.Errorf("imported %d bytes, want %d", len(got), len(first))
				}
				if _, err := os.Stat(c.at(name, "closed")); !os.IsNotExist(err) {
					t.Errorf("users are kept out: %v", err)
				}
				componenttest.Eventually(t, "the file is removed", func() bool {
					_, err := os.Stat(filepath.Join(c.snapshots, cutNode, name, "uploads"))
					return os.IsNotExist(err)
				})
			})
		}
	}
}

// TestSerializedRefusals: a file that is too large, cut off, longer than it says, changed,
// another service's or none is refused with a reason, and nothing is left of it.
func TestSerializedRefusals(t *testing.T) {
	t.Parallel()
	c := newCuts(t)
	name := c.made(configurations, wantedInstance).ServiceID
	of := configurations + "/" + name
	c.put(name, "mine")
	file := fileOf(t, "nothing", "file:"+strings.Repeat("x", 1_000_000))
	for what, tc := range map[string]struct{ body, why string }{
		"cut off":          {file[:len(file)-10], "cut off: it has 999995 of the 1000005 bytes"},
		"longer":           {file + "x", "longer than the 1000005 bytes"},
		"changed":          {file[:len(file)-10] + "y" + file[len(file)-9:], "damaged or was changed"},
		"another service":  {fileOf(t, "mysql", "x"), "an export of mysql, and the service is nothing"},
		"no file":          {strings.Repeat("x", 3<<20), "no file of vmc export-service"},
		"nothing":          {"", "no file of vmc export-service"},
		"too large":        {`{"service":"nothing","size":1099511627776,"sha256":"` + strings.Repeat("00", 32) + "\"}\n" + strings.Repeat("x", 3<<20), "at most 1024 MiB"},
		"a negative size":  {`{"service":"nothing","size":-1,"sha256":"` + strings.Repeat("00", 32) + "\"}\n", "negative"},
		"a path for a sum": {`{"service":"nothing","size":1,"sha256":"../../etc"}` + "\n", "sha256"},
	} {
		r, err := c.try("tok", "PUT", of+"/serialized/data", tc.body)
		if err != nil || r.status != 400 || !strings.Contains(r.body, tc.why) {
			t.Errorf("%s: %d %s, %v, want %q", what, r.status, r.body, err, tc.why)
		}
	}
	j := c.ended(name, c.submit("PUT", of+"/serialized/data", fileOf(t, "nothing", "no word")).ID)
	if j.Status != wire.JobFailed || j.Error == nil || j.Error.Description != "it is no file of a drawer" {
		t.Errorf("a file that the service refuses: %+v, %+v", j, j.Error)
	}
	if got := c.data(name); got != "mine" {
		t.Errorf("there is %q", got)
	}
	componenttest.Eventually(t, "nothing is left", func() bool {
		left, err := filepath.Glob(filepath.Join(c.snapshots, cutNode, name, "uploads", "*"))
		return err == nil && len(left) == 0
	})
	// Pieces out of order, or of nobody's upload, are refused by the node itself.
	ask := func(operation string, request wire.SerializedRequest) (a wire.SerializedAnswer) {
		t.Helper()
		doc, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		componenttest.Eventually(t, "the node answers", func() bool {
			m, err := c.conn.Request(wire.ServiceNodeSubject("NothingaaS", operation, cutNode), doc, time.Minute)
			if err != nil {
				return false
			}
			a, err = wire.ParseSerializedAnswer(m.Data)
			return err == nil
		})
		return a
	}
	sum := sha256.Sum256([]byte("file:abc"))
	head := &wire.SerializedHead{Service: "nothing", Size: 8, SHA256: hex.EncodeToString(sum[:])}
	begun := ask(wire.ServiceBeginUpload, wire.SerializedRequest{InstanceID: name, Head: head})
	piece := func(id string, offset int64, data string) wire.SerializedAnswer {
		return ask(wire.ServiceWritePiece, wire.SerializedRequest{InstanceID: name, UploadID: id, Offset: offset, Data: []byte(data)})
	}
	if a := piece("u1", 0, "file:"); a.Success {
		t.Error("a piece of nobody's upload is taken")
	}
	if a := piece(begun.UploadID, 0, "file:"); !a.Success {
		t.Errorf("a piece: %v", a.Error)
	}
	if a := piece(begun.UploadID, 0, "file:"); !a.Success {
		t.Errorf("a piece whose answer was lost: %v", a.Error)
	}
	if a := piece(begun.UploadID, 7, "c"); a.Success || !strings.Contains(a.Error.Error(), "begins at byte 7") {
		t.Errorf("a piece that is not the next: %+v", a)
	}
	if a := piece(begun.UploadID, 5, "abc"); a.Success {
		t.Error("an upload goes on after a piece that was refused")
	}
	// A node that begins again has no upload that was under way, and no file of it.
	begun = ask(wire.ServiceBeginUpload, wire.SerializedRequest{InstanceID: name, Head: head})
	piece(begun.UploadID, 0, "file:")
	c.kill("node")
	c.begin("node")
	c.settled()
	if a := ask(wire.ServiceImportFile, wire.SerializedRequest{InstanceID: name, UploadID: begun.UploadID}); a.Success || !strings.Contains(a.Error.Error(), "send the file again") {
		t.Errorf("an upload of the node's last life: %+v", a)
	}
	if left, err := filepath.Glob(filepath.Join(c.snapshots, cutNode, name, "uploads", "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	c.call("DELETE", of, "{}", nil)
	c.forget(name)
	if left, err := filepath.Glob(filepath.Join(c.snapshots, cutNode, "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
