package terraform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// hosts is a deployment on templates/hosts; n instances of group web are wanted.
func hosts(t *testing.T, n int, settings map[string]cty.Value) (*Runner, Input, context.Context) {
	t.Helper()
	base := t.TempDir()
	r, err := Open(Options{
		Dir: filepath.Join(base, "terraform"), VMs: filepath.Join(base, "vms"), BaseDir: base,
		Templates: os.DirFS("../../../templates"), Template: "hosts",
		Find: FindOptions{CacheDir: filepath.Join(base, "engines")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	in := Input{Deployment: Deployment{Name: "test", ID: "d-1"}, Instances: map[string]InstanceInput{}, SSHPublicKey: "ssh-ed25519 AAAA", Settings: settings}
	for i := range n {
		in.Instances[fmt.Sprintf("web/%d", i)] = InstanceInput{Group: "web", Index: i, AZ: fmt.Sprintf("z%d", i+1)}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return r, in, ctx
}

func object(pairs ...string) cty.Value {
	m := map[string]cty.Value{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = cty.StringVal(pairs[i+1])
	}
	return cty.ObjectVal(m)
}

func TestHosts(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHhA"
	settings := map[string]cty.Value{
		"user": cty.StringVal("ops"), "private_key": cty.StringVal("~/.ssh/id"),
		"instances": cty.ObjectVal(map[string]cty.Value{
			"web/0": object("address", "10.0.0.5"),
			"web/1": cty.ObjectVal(map[string]cty.Value{
				"address": cty.StringVal("fd00::6"), "ssh_host": cty.StringVal("gate.example"), "ssh_port": cty.NumberIntVal(2201),
				"user": cty.StringVal("root"), "host_key": cty.StringVal(key + " web1\n"), "az": cty.StringVal("z2"),
				"agent_dir": cty.StringVal("/srv/agent"), "arch": cty.StringVal("arm64"), "private_key": cty.StringVal("agent"),
				"disk": cty.StringVal("/srv/data"),
			}),
			"web/2": object("address", "10.0.0.7"), // spare
		}),
	}
	r, in, ctx := hosts(t, 2, settings)
	in.Disks = map[string]DiskInput{"web/1": {Group: "web", Index: 1, SizeGB: 1, Attached: true}}
	apply := func(in Input) (*Plan, map[string]Instance) {
		t.Helper()
		if _, err := r.Write(in); err != nil {
			t.Fatal(err)
		}
		p, err := r.Plan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Pending {
			return p, p.Instances
		}
		instances, err := r.Apply(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return p, instances
	}
	_, got := apply(in)
	want := map[string]Instance{
		"web/0": {
			ID: "10.0.0.5:22/var/lib/deploy", Address: "10.0.0.5", SSHHost: "10.0.0.5", SSHPort: 22, SSHUser: "ops",
			SSHPrivateKeyFile: "~/.ssh/id", AgentDir: "/var/lib/deploy", OS: "linux", Arch: "amd64", Running: true, Keep: true,
		},
		"web/1": {
			ID: "gate.example:2201/srv/agent", Address: "fd00::6", SSHHost: "gate.example", SSHPort: 2201, SSHUser: "root",
			SSHHostKey: key + " web1", SSHPrivateKeyFile: "agent", AgentDir: "/srv/agent", OS: "linux", Arch: "arm64",
			Disk: "/srv/data", Running: true, Keep: true,
		},
	}
	for id, w := range want {
		if got[id] != w {
			t.Errorf("%s:\n got %+v\nwant %+v", id, got[id], w)
		}
	}
	if p, _ := apply(in); p.Pending {
		t.Errorf("the same again: %+v", p)
	}

	// A host key that becomes known is no other machine; another address is one.
	change := func(id string, to cty.Value) {
		machines := settings["instances"].AsValueMap()
		machines[id] = to
		settings["instances"] = cty.ObjectVal(machines)
	}
	change("web/0", object("address", "10.0.0.5", "host_key", key))
	if p, got := apply(in); len(p.Changes) != 0 || got["web/0"].SSHHostKey != key {
		t.Errorf("a host key: %+v, %+v", p.Changes, got["web/0"])
	}
	change("web/0", object("address", "10.0.0.8"))
	p, got := apply(in)
	if len(p.Changes) != 1 || p.Changes[0].Key != "web/0" || p.Changes[0].Action != Replace || got["web/0"].ID == want["web/0"].ID {
		t.Errorf("another machine: %+v, %+v", p.Changes, got["web/0"])
	}
	// Growth takes the spare one and leaves the others.
	in.Instances["web/2"] = InstanceInput{Group: "web", Index: 2}
	p, got = apply(in)
	if len(p.Changes) != 1 || p.Changes[0].Action != Create || got["web/2"].Address != "10.0.0.7" {
		t.Errorf("growth: %+v, %+v", p.Changes, got["web/2"])
	}
}

func TestHostsErrors(t *testing.T) {
	machines := func(pairs ...any) map[string]cty.Value {
		m := map[string]cty.Value{"web/0": object("address", "10.0.0.5"), "web/1": object("address", "10.0.0.6")}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1].(cty.Value)
		}
		return map[string]cty.Value{"instances": cty.ObjectVal(m)}
	}
	tests := []struct {
		name     string
		settings map[string]cty.Value
		change   func(*Input)
		want     []string
	}{
		{"none", map[string]cty.Value{}, nil, []string{"must say which machine each instance has"}},
		{"too few", machines(), func(in *Input) {
			in.Instances["web/2"], in.Instances["db/0"] = InstanceInput{Group: "web", Index: 2}, InstanceInput{Group: "db"}
		}, []string{"no machine for db/0, web/2"}},
		{"unknown setting", map[string]cty.Value{"machines": cty.True, "instances": cty.EmptyObjectVal}, nil, []string{"no setting machines"}},
		{"unknown attribute", machines("web/1", object("adress", "10.0.0.6", "address", "10.0.0.6")), nil, []string{"adress (web/1)"}},
		{"no instance id", machines("web", object("address", "10.0.0.7")), nil, []string{"no instance id: web."}},
		{"no address", machines("web/1", object("ssh_host", "web.example")), nil, []string{"there is none for web/1"}},
		{"a name for an address", machines("web/1", object("address", "web.example")), nil, []string{"there is none for web/1"}},
		{"the same machine twice", machines("web/1", object("address", "10.0.0.5", "ssh_host", "b")), nil, []string{"10.0.0.5 for web/0, web/1"}},
		{"the same SSH server twice", machines("web/1", object("address", "10.0.0.6", "ssh_host", "10.0.0.5")), nil, []string{"10.0.0.5:22 for web/0, web/1"}},
		{"a fingerprint for a host key", machines("web/1", object("address", "10.0.0.6", "host_key", "SHA256:abc")), nil, []string{"not for web/1", "ssh-keyscan"}},
		{"relative agent_dir", machines("web/1", object("address", "10.0.0.6", "agent_dir", "agent")), nil, []string{"absolute path"}},
		{"another zone", machines("web/1", object("address", "10.0.0.6", "az", "z3")), nil, []string{"web/1 is to be in z2", "in z3"}},
		{"another static address", machines(), func(in *Input) {
			in.Instances["web/0"] = InstanceInput{Group: "web", StaticAddress: "10.0.0.9"}
		}, []string{"10.0.0.9", "10.0.0.5"}},
		{"a disk", machines(), func(in *Input) {
			in.Disks = map[string]DiskInput{"web/1": {Group: "web", Index: 1, SizeGB: 1, Attached: true}}
		}, []string{"no persistent disk for web/1"}},
	}
	r, _, ctx := hosts(t, 0, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, in, _ := hosts(t, 2, test.settings)
			if test.change != nil {
				test.change(&in)
			}
			if _, err := r.Write(in); err != nil {
				t.Fatal(err)
			}
			p, err := r.Plan(ctx)
			if err == nil {
				t.Fatalf("no error: %+v", p)
			}
			// The engine breaks lines where it likes.
			got := strings.Join(strings.Fields(err.Error()), " ")
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q does not tell %q", got, want)
				}
			}
		})
	}
}
