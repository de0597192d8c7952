package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestHealthManagerProblems(t *testing.T) {
	request := func(b []byte) error { _, err := ParseHealthManagerRequest(b); return err }
	status := func(b []byte) error { _, err := ParseHealthStatusRequest(b); return err }
	credentials := func(b []byte) error { _, err := ParseBulkCredentials(b); return err }
	apps := func(b []byte) error { _, err := ParseBulkApps(b); return err }
	for _, tc := range []struct {
		name, doc, want string
		parse           func([]byte) error
	}{
		{"no droplet", `{"op":"START"}`, "without droplet", request},
		{"no op", `{"droplet":7}`, `unknown op ""`, request},
		{"negative index", `{"droplet":7,"op":"START","indices":[0,-1]}`, "negative", request},
		{"request is no object", `[]`, "cannot read a health manager's request", request},
		{"unknown state", `{"droplet":7,"state":"HAPPY"}`, `unknown state "HAPPY"`, status},
		{"credentials without password", `{"user":"bulk_api"}`, "absent", credentials},
		{"negative instances", `{"results":{"7":{"instances":-1}}}`, "-1 instances", apps},
		{"no app id", `{"results":{"":{}}}`, `app ""`, apps},
		{"time in words", `{"results":{"7":{"updated_at":"yesterday"}}}`, `time "yesterday"`, apps},
		{"time as a fraction", `{"results":{"7":{"updated_at":1.5}}}`, "cannot read a time", apps},
		{"time out of range", `{"results":{"7":{"updated_at":99999999999999}}}`, "in the year", apps},
		{"empty", ``, "cannot read the apps", apps},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.parse([]byte(tc.doc)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestBulkTimes(t *testing.T) {
	want := time.Date(2012, 8, 1, 10, 0, 0, 0, time.UTC)
	for _, doc := range []string{
		`"2012-08-01T10:00:00Z"`, `"2012-08-01T12:00:00+02:00"`, `"2012-08-01T10:00:00.250Z"`,
		`"2012-08-01T10:00:00"`, `"2012-08-01 10:00:00"`, `"2012-08-01 10:00:00 +0000"`,
		`"2012-08-01 10:00:00 UTC"`, `"2012/08/01 10:00:00 +0000"`, `1343815200`,
	} {
		var got BulkTime
		if err := json.Unmarshal([]byte(doc), &got); err != nil || !got.Equal(want) {
			t.Errorf("%s reads as %v, %v; want %v", doc, got, err, want)
		}
	}
	var none BulkTime
	if err := json.Unmarshal([]byte(`null`), &none); err != nil || !none.IsZero() {
		t.Errorf("null reads as %v, %v", none, err)
	}
}

func TestPartitionSubject(t *testing.T) {
	if got := PartitionSubject(SubjectHealthManagerRequests, DefaultPartition); got != "cloudcontrollers.hm.requests.default" {
		t.Error(got)
	}
}

// FuzzHealthManager: no bytes of the bus or the bulk API may panic, and what is
// accepted is read the same after it was sent on.
func FuzzHealthManager(f *testing.F) {
	parsers := map[string]func([]byte) (any, error){
		"hmrequest":       func(b []byte) (any, error) { return ParseHealthManagerRequest(b) },
		"healthrequest":   func(b []byte) (any, error) { return ParseHealthRequest(b) },
		"health":          func(b []byte) (any, error) { return ParseHealth(b) },
		"healthstatus":    func(b []byte) (any, error) { return ParseHealthStatusRequest(b) },
		"flapping":        func(b []byte) (any, error) { return ParseFlappingIndices(b) },
		"crashed":         func(b []byte) (any, error) { return ParseCrashedInstances(b) },
		"bulkcredentials": func(b []byte) (any, error) { return ParseBulkCredentials(b) },
		"bulkapps":        func(b []byte) (any, error) { return ParseBulkApps(b) },
		"bulkcounts":      func(b []byte) (any, error) { return ParseBulkCounts(b) },
		"presence":        func(b []byte) (any, error) { return ParseHealthManagerPresence(b) },
	}
	for kind := range parsers {
		files, err := filepath.Glob("testdata/" + kind + "*.json")
		if err != nil || len(files) == 0 {
			f.Fatalf("no documents of kind %s: %v", kind, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte(`null`))
	f.Add([]byte(`{"droplet":1e3,"op":"START","indices":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for kind, parse := range parsers {
			first, err := parse(data)
			if err != nil {
				continue
			}
			sent, err := json.Marshal(first)
			if err != nil {
				t.Fatalf("cannot send the %s that was read: %v", kind, err)
			}
			second, err := parse(sent)
			if err != nil {
				t.Fatalf("cannot read the %s %s again: %v", kind, sent, err)
			}
			again, err := json.Marshal(second)
			if err != nil || !reflect.DeepEqual(sent, again) {
				t.Errorf("%s: sent %s, then %s, %v", kind, sent, again, err)
			}
		}
	})
}
