package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// deaParsers are the parsers of the DEA's messages, by their golden files' kind.
var deaParsers = map[string]func([]byte) (any, error){
	"deastart":      func(b []byte) (any, error) { return ParseDEAHello(b) },
	"deastatus":     func(b []byte) (any, error) { return ParseDEAStatus(b) },
	"deadiscover":   func(b []byte) (any, error) { return ParseDEADiscover(b) },
	"deainstance":   func(b []byte) (any, error) { return ParseDEAStart(b) },
	"deaupdate":     func(b []byte) (any, error) { return ParseDEAUpdate(b) },
	"deastop":       func(b []byte) (any, error) { return ParseDEAStop(b) },
	"deafind":       func(b []byte) (any, error) { return ParseDEAFind(b) },
	"deafound":      func(b []byte) (any, error) { return ParseDEAFound(b) },
	"deaadvertise":  func(b []byte) (any, error) { return ParseDEAAdvertise(b) },
	"deaheartbeat":  func(b []byte) (any, error) { return ParseDEAHeartbeat(b) },
	"deashutdown":   func(b []byte) (any, error) { return ParseDEAShutdown(b) },
	"dropletstatus": func(b []byte) (any, error) { return ParseInstanceStats(b) },

	"dropletexited":  func(b []byte) (any, error) { return ParseDropletExited(b) },
	"dropletupdated": func(b []byte) (any, error) { return ParseDropletUpdated(b) },
}

func TestDEAProblems(t *testing.T) {
	const sha1 = `"sha1":"0123456789abcdef0123456789abcdef01234567"`
	for _, tc := range []struct{ name, kind, doc, want string }{
		{"start without droplet", "deainstance", `{` + sha1 + `,"executableUri":"http://h/"}`, "without droplet"},
		{"start of a list", "deainstance", `{"droplet":[7]}`, "cannot read an id"},
		{"sha1 that leaves the folder", "deainstance", `{"droplet":7,"sha1":"../../../../../../../etc/passwd","executableUri":"http://h/"}`, "sha1"},
		{"negative index", "deainstance", `{"droplet":7,` + sha1 + `,"executableUri":"http://h/","index":-1}`, "index -1"},
		{"no bits", "deainstance", `{"droplet":7,` + sha1 + `}`, "without executableFile"},
		{"negative memory", "deainstance", `{"droplet":7,` + sha1 + `,"executableUri":"http://h/","limits":{"mem":-64}}`, "limit mem"},
		{"memory that overflows", "deadiscover", `{"droplet":7,"limits":{"mem":9000000000000000000}}`, "limit mem"},
		{"stop of nobody", "deastop", `{}`, "without droplet"},
		{"stop of null", "deastop", `null`, "without droplet"},
		{"find of nobody", "deafind", `{"states":["RUNNING"]}`, "without droplet"},
		{"update without uris", "deaupdate", `{"droplet":7}`, "without uris"},
		{"hello without id", "deastart", `{"ip":"10.0.0.5"}`, "without id"},
		{"advertise without id", "deaadvertise", `{}`, "without id"},
		{"heartbeat without instance", "deaheartbeat", `{"droplets":[{"droplet":7}],"dea":"d"}`, "lacks droplet"},
		{"exit without instance", "dropletexited", `{"droplet":7}`, "without droplet, instance"},
		{"not JSON", "dropletexited", `exited`, "cannot read a droplet.exited"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := deaParsers[tc.kind]([]byte(tc.doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestStartDefaults(t *testing.T) {
	s, err := ParseDEAStart([]byte(`{"droplet":7,"sha1":"0123456789abcdef0123456789abcdef01234567","executableUri":"http://h/","runtime":"node"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Limits{Mem: 512, Disk: 256, FDs: 1024}); s.Limits != want {
		t.Errorf("limits %+v, want %+v", s.Limits, want)
	}
	if s.RuntimeInfo.Name != "node" {
		t.Errorf("runtime_info names %q", s.RuntimeInfo.Name)
	}
}

// TestFilter: each part of a filter narrows it, and what a sender leaves out
// matches all, while an empty list matches nothing, also after it was sent.
func TestFilter(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		want bool
	}{
		{`{"droplet":7}`, true},
		{`{"droplet":7,"version":"v","instances":["i"],"indices":[1],"states":["RUNNING"]}`, true},
		{`{"droplet":7,"version":"w"}`, false},
		{`{"droplet":7,"instances":["j"]}`, false},
		{`{"droplet":7,"instance_ids":["j"]}`, false},
		{`{"droplet":7,"instance_ids":["i"]}`, true},
		{`{"droplet":7,"instances":[]}`, false},
		{`{"droplet":7,"instances":null}`, true},
		{`{"droplet":7,"indices":[0,2]}`, false},
		{`{"droplet":7,"states":["STARTING"]}`, false},
	} {
		stop, err := ParseDEAStop([]byte(tc.doc))
		if err != nil {
			t.Fatalf("%s: %v", tc.doc, err)
		}
		sent, err := json.Marshal(stop)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseDEAStop(sent)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []DEAStop{stop, again} {
			if got := s.Matches("v", "i", 1, StateRunning); got != tc.want {
				t.Errorf("%s, as %+v, matches: %v, want %v", tc.doc, s, got, tc.want)
			}
		}
	}
}

func TestHeartbeatRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := DEAHeartbeat{
			DEA: rapid.String().Draw(t, "dea"),
			Droplets: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) InstanceHeartbeat {
				return InstanceHeartbeat{
					Droplet:        ID(rapid.StringN(1, -1, -1).Draw(t, "droplet")),
					Version:        rapid.String().Draw(t, "version"),
					Instance:       rapid.StringN(1, -1, -1).Draw(t, "instance"),
					Index:          rapid.IntMin(0).Draw(t, "index"),
					State:          rapid.SampledFrom([]string{StateStarting, StateRunning, StateCrashed}).Draw(t, "state"),
					StateTimestamp: rapid.Int64().Draw(t, "since"),
					CCPartition:    rapid.String().Draw(t, "partition"),
				}
			}), 1, 5).Draw(t, "droplets"),
		}
		data, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseDEAHeartbeat(data)
		if err != nil || !reflect.DeepEqual(got, sent) {
			t.Errorf("read %+v, %v; sent %+v", got, err, sent)
		}
	})
}

// FuzzDEA gives the same bytes to every parser of the DEA's messages: none may
// panic, and what one accepts keeps its meaning when it is sent on.
func FuzzDEA(f *testing.F) {
	for kind := range deaParsers {
		files, err := filepath.Glob("testdata/" + kind + "_*.json")
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds for %s: %v", kind, err)
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
	f.Fuzz(func(t *testing.T, data []byte) {
		for kind, parse := range deaParsers {
			first, err := parse(data)
			if err != nil {
				continue
			}
			sent, err := json.Marshal(first)
			if err != nil {
				t.Fatalf("%s: cannot send what was read: %v", kind, err)
			}
			second, err := parse(sent)
			if err != nil {
				t.Fatalf("%s: cannot read %s again: %v", kind, sent, err)
			}
			again, err := json.Marshal(second)
			if err != nil {
				t.Fatal(err)
			}
			if string(sent) != string(again) {
				t.Errorf("%s: sent %s, and when that was read %s", kind, sent, again)
			}
		}
	})
}
