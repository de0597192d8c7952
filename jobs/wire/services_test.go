package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var serviceParsers = map[string]func([]byte) (any, error){
	"serviceannounce":    func(b []byte) (any, error) { return ParseServiceAnnounce(b) },
	"servicediscovery":   func(b []byte) (any, error) { return ParseServiceDiscovery(b) },
	"serviceprovision":   func(b []byte) (any, error) { return ParseProvisionRequest(b) },
	"serviceunprovision": func(b []byte) (any, error) { return ParseUnprovisionRequest(b) },
	"servicebind":        func(b []byte) (any, error) { return ParseBindRequest(b) },
	"serviceunbind":      func(b []byte) (any, error) { return ParseUnbindRequest(b) },
	"servicerestore":     func(b []byte) (any, error) { return ParseRestoreRequest(b) },
	"serviceanswer":      func(b []byte) (any, error) { return ParseServiceAnswer(b) },
	"servicereport":      func(b []byte) (any, error) { return ParseServiceReport(b) },
	"servicepurge":       func(b []byte) (any, error) { return ParsePurgeOrphans(b) },
	"servicemigration":   func(b []byte) (any, error) { return ParseMigration(b) },
	"servicehandle":      func(b []byte) (any, error) { return ParseServiceHandle(b) },
}

func TestServiceProblems(t *testing.T) {
	for _, tc := range []struct{ kind, doc, want string }{
		{"serviceannounce", `{"id":"a.b","plan":"free"}`, "id cannot be a node's"},
		{"serviceannounce", `{"id":"a","capacity_unit":-1}`, "negative"},
		{"serviceannounce", `{"id":7}`, "wrong type"},
		{"serviceprovision", `{}`, "no plan"},
		{"serviceprovision", `{"plan":"free","credentials":{"name":"../x"}}`, "cannot be an instance's"},
		{"serviceprovision", `{"plan":"free","credentials":{"name":"d1","user":"-h"}}`, "user"},
		{"serviceprovision", `{"plan":"free","credentials":{"name":"d1","password":"secret\nx"}}`, "line end"},
		{"serviceunprovision", `{"name":""}`, "cannot be an instance's"},
		{"servicebind", `{"name":"a b"}`, "cannot be an instance's"},
		{"serviceunbind", `{}`, "no credentials"},
		{"serviceunbind", `{"credentials":{"user":"u"}}`, "cannot be an instance's"},
		{"servicerestore", `{"instance_id":"/"}`, "cannot be an instance's"},
		{"serviceanswer", `{"success":false}`, "neither"},
		{"servicereport", `{"node_id":"a*"}`, "cannot be a node's"},
		{"servicemigration", `[{"service_id":"d1"}]`, "1 elements"},
		{"servicemigration", `[{"service_id":"d1"},[]]`, "no credentials"},
		{"servicemigration", `[{"service_id":"d1","credentials":{"name":"d1"}},[{"service_id":"b","credentials":{"name":"d2","user":"u"}}]]`, "not one of its instance"},
		{"servicehandle", `{"credentials":{"name":"d1"}}`, "no service_id"},
		{"servicehandle", `{"service_id":"d1","credentials":"secret"}`, "wrong type"},
	} {
		_, err := serviceParsers[tc.kind]([]byte(tc.doc))
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s %s: %v, want an error with %q", tc.kind, tc.doc, err, tc.want)
		}
	}
	if got := ServicePrefix("redis") + ServicePrefix("shelf") + ServicePrefix(""); got != "RaaSShelfaaS" {
		t.Error(got)
	}
	if f := Failure(ServiceNotFound, "no %s", "x"); f.Status != 404 || f.Error() != "no x" {
		t.Errorf("%+v", f)
	}
}

// FuzzServices: no bytes of the bus may panic a parser of services, and what is
// accepted keeps its meaning when it is sent on.
func FuzzServices(f *testing.F) {
	for kind := range serviceParsers {
		files, err := filepath.Glob("testdata/" + kind + "_*.json")
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds of %s: %v", kind, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(kind, data)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		parse, known := serviceParsers[kind]
		if !known {
			return
		}
		first, err := parse(data)
		if err != nil {
			return
		}
		sent, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		second, err := parse(sent)
		if err != nil {
			t.Fatalf("%s is not accepted any more: %v", sent, err)
		}
		again, err := json.Marshal(second)
		if err != nil || !reflect.DeepEqual(again, sent) {
			t.Fatalf("%s became %s, %v", sent, again, err)
		}
	})
}

// FuzzSerialized: what is read of files can be named in paths, is bounded, and a head that
// is read is one that can be written and read again.
func FuzzSerialized(f *testing.F) {
	head := `{"service":"redis","version":"7.0","size":3,"sha256":"` + strings.Repeat("ab", 32) + `"}`
	f.Add([]byte(head + "\n"))
	f.Add([]byte(`{"instance_id":"d1","upload_id":"u1","offset":7,"data":"AAEC","head":` + head + `}`))
	f.Add([]byte(`{"success":true,"data":"AAEC","head":` + head + `}`))
	f.Add([]byte(`{"success":false}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := ParseSerializedHead(data); err == nil {
			line, err := h.Line()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseSerializedHead(line); err != nil || again != h {
				t.Errorf("%+v is read as %+v, %v", h, again, err)
			}
		}
		if r, err := ParseSerializedRequest(data); err == nil {
			for _, id := range []string{r.InstanceID, r.SnapshotID, r.UploadID} {
				if strings.ContainsAny(id, "/.\x00") || strings.HasPrefix(id, "-") {
					t.Errorf("%q is taken for an id", id)
				}
			}
			if r.Offset < 0 || len(r.Data) > MaxSerializedPiece {
				t.Errorf("%+v", r)
			}
		}
		if a, err := ParseSerializedAnswer(data); err == nil && !a.Success && a.Error == nil {
			t.Errorf("%+v", a)
		}
	})
}

// FuzzSnapshotMessages: what is read of snapshots can be named in paths and subjects.
func FuzzSnapshotMessages(f *testing.F) {
	f.Add([]byte(`{"instance_id":"d1","snapshot_id":"1-ab","job_id":"j1","name":"before the update"}`))
	f.Add([]byte(`{"instance_id":"../x"}`))
	f.Add([]byte(`{"success":false,"error":{"status":503,"msg":{"code":30600,"description":"no"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseSnapshotRequest(data); err == nil {
			for _, id := range []string{r.InstanceID, r.SnapshotID, r.JobID} {
				if strings.ContainsAny(id, "/.\x00 *>\n") {
					t.Errorf("%q is an id", id)
				}
			}
			if strings.ContainsAny(r.Name, "\x00\n\r\x1b") || len(r.Name) > 4*64 {
				t.Errorf("%q is a name", r.Name)
			}
		}
		if a, err := ParseSnapshotAnswer(data); err == nil && !a.Success && a.Error == nil {
			t.Errorf("%s is an answer", data)
		}
	})
}
