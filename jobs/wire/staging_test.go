package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStagingProblems(t *testing.T) {
	const uris = `"download_uri":"http://u:secret@h/a","upload_uri":"http://u:secret@h/b"`
	for _, tc := range []struct{ name, doc, want string }{
		{"not JSON", `staging`, "cannot read a staging request"},
		{"no app", `{"properties":{"framework":"node"},` + uris + `}`, "without app_id"},
		{"app is a list", `{"app_id":[1]}`, "cannot read an id"},
		{"no framework", `{"app_id":7,` + uris + `}`, "without framework"},
		{"no download_uri", `{"app_id":7,"properties":{"framework":"node"},"upload_uri":"http://h/b"}`, "download_uri is not an http URL"},
		{"upload to a file", `{"app_id":7,"properties":{"framework":"node"},"download_uri":"http://h/b","upload_uri":"file:///etc/passwd"}`, "upload_uri is not an http URL"},
		{"bad URI with a password", `{"app_id":7,"properties":{"framework":"node"},"download_uri":"http://u:secret@h:x/a","upload_uri":"http://h/b"}`, "download_uri is not an http URL"},
		{"memory is text", `{"app_id":7,"properties":{"framework":"node","resources":{"memory":"64"}},` + uris + `}`, "cannot read a staging request"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseStagingRequest([]byte(tc.doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// The names stand in for each other, since dialects give one or the other.
func TestStagingNames(t *testing.T) {
	r, err := ParseStagingRequest([]byte(`{"app_id":7,"properties":{"framework_info":{"name":"node"},"runtime_info":{"name":"node06"}},"download_uri":"http://h/a","upload_uri":"http://h/b"}`))
	if err != nil || r.Properties.Framework != "node" || r.Properties.Runtime != "node06" {
		t.Errorf("framework %q, runtime %q, %v", r.Properties.Framework, r.Properties.Runtime, err)
	}
}

// FuzzParseStagingRequest: no bytes of the bus may panic, and what is accepted
// keeps its meaning when it is sent on.
func FuzzParseStagingRequest(f *testing.F) {
	files, err := filepath.Glob("testdata/staging_*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := ParseStagingRequest(data)
		if err != nil {
			return
		}
		sent, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("cannot send what was read: %v", err)
		}
		second, err := ParseStagingRequest(sent)
		if err != nil {
			t.Fatalf("cannot read %s again: %v", sent, err)
		}
		again, err := json.Marshal(second)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(sent, again) {
			t.Errorf("sent\n%s\nthen\n%s", sent, again)
		}
	})
}
