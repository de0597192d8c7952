package wire

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write what is sent into the .sent files")

// TestGolden reads each document as other components send it and compares what
// we would send for it, byte by byte, with the file beside it.
func TestGolden(t *testing.T) {
	parsers := map[string]func([]byte) (any, error){
		"register": func(b []byte) (any, error) { return ParseRegistration(b) },
		"hosts":    func(b []byte) (any, error) { return ParseRouterHosts(b) },
		"requests": func(b []byte) (any, error) { return ParseRoutedRequests(b) },
		"asked":    func(b []byte) (any, error) { return ParseRequestsAsked(b) },
		"router":   func(b []byte) (any, error) { return ParseRouterStart(b) },
		"announce": func(b []byte) (any, error) { return ParseComponent(b) },
		"discover": func(b []byte) (any, error) { return ParseComponent(b) },

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
		"staging":         func(b []byte) (any, error) { return ParseStagingRequest(b) },
		"staged":          func(b []byte) (any, error) { return ParseStagingAnswer(b) },
	}
	maps.Copy(parsers, deaParsers)
	maps.Copy(parsers, serviceParsers)
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			kind, _, _ := strings.Cut(name, "_")
			received, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, err := parsers[kind](received)
			if err != nil {
				t.Fatal(err)
			}
			sent, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, '\n')
			golden := strings.TrimSuffix(file, ".json") + ".sent"
			if *update {
				if err := os.WriteFile(golden, sent, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(sent) != string(want) {
				t.Errorf("sent\n%swant\n%s", sent, want)
			}
		})
	}
}

func TestRegistrationProblems(t *testing.T) {
	for _, tc := range []struct{ name, doc, want string }{
		{"no host", `{"port":1,"uris":[]}`, "without host"},
		{"no port", `{"host":"h","uris":[]}`, "port 0"},
		{"port too high", `{"host":"h","port":65536,"uris":[]}`, "port 65536"},
		{"no uris", `{"host":"h","port":1}`, "without uris"},
		{"uris null", `{"host":"h","port":1,"uris":null}`, "without uris"},
		{"app is an object", `{"host":"h","port":1,"uris":[],"app":{}}`, "cannot read an id"},
		{"tag is a list", `{"host":"h","port":1,"uris":[],"tags":{"a":[]}}`, `tag "a"`},
		{"not JSON", `host`, "cannot read a registration"},
		{"empty", ``, "cannot read a registration"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseRegistration([]byte(tc.doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestIDs(t *testing.T) {
	for doc, want := range map[string]ID{`7`: "7", `"7"`: "7", `null`: "", `"a-b"`: "a-b", `12345678901234567890`: "12345678901234567890"} {
		var id ID
		if err := json.Unmarshal([]byte(doc), &id); err != nil || id != want {
			t.Errorf("%s reads as %q, %v; want %q", doc, id, err, want)
		}
	}
}

func TestInterval(t *testing.T) {
	for seconds, want := range map[int]time.Duration{
		0: 20 * time.Second, -1: 20 * time.Second, 5: 5 * time.Second, 40: 40 * time.Second,
		1000: 40 * time.Second, 1 << 62: 40 * time.Second,
	} {
		if got := (RouterStart{MinimumRegisterIntervalInSeconds: seconds}).Interval(); got != want {
			t.Errorf("%d s: %v, want %v", seconds, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	at := time.Date(2012, 8, 1, 10, 0, 0, 0, time.UTC)
	if got := FormatTime(at); got != "2012-08-01 10:00:00 +0000" {
		t.Error(got)
	}
	for d, want := range map[time.Duration]string{
		0: "0d:0h:0m:0s", 3*time.Hour + 12*time.Minute + 9*time.Second: "0d:3h:12m:9s",
		49*time.Hour + 59*time.Second + 999*time.Millisecond: "2d:1h:0m:59s", -time.Second: "0d:0h:0m:0s",
	} {
		if got := FormatUptime(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestRoundTrip: what we send, we read back the same.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := Registration{
			DEA:                     rapid.String().Draw(t, "dea"),
			App:                     ID(rapid.String().Draw(t, "app")),
			Host:                    rapid.StringN(1, -1, -1).Draw(t, "host"),
			Port:                    rapid.IntRange(1, 65535).Draw(t, "port"),
			URIs:                    rapid.SliceOf(rapid.String()).Draw(t, "uris"),
			PrivateInstanceID:       rapid.String().Draw(t, "id"),
			StaleThresholdInSeconds: rapid.Int().Draw(t, "stale"),
		}
		if tags := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "tags"); len(tags) > 0 {
			sent.Tags = tags
		}
		data, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRegistration(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, sent) {
			t.Errorf("read %+v, sent %+v", got, sent)
		}
	})
}

// FuzzParseRegistration: no bytes of the bus may panic, and what is accepted
// keeps its meaning when it is sent on.
func FuzzParseRegistration(f *testing.F) {
	files, err := filepath.Glob("testdata/register_*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"host":"h","port":1e3,"uris":[],"app":1e3,"tags":{"":true}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := ParseRegistration(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("cannot send what was read: %v", err)
		}
		second, err := ParseRegistration(again)
		if err != nil {
			t.Fatalf("cannot read %s again: %v", again, err)
		}
		if len(first.Tags) == 0 {
			first.Tags, second.Tags = nil, nil
		}
		if !reflect.DeepEqual(first, second) {
			t.Errorf("read %+v, after sending %+v", first, second)
		}
	})
}
