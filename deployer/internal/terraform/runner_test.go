package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/zclconf/go-cty/cty"
)

func TestLifeOfThreeVMs(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, 3)
	d.input.Disks = map[string]DiskInput{"web/1": {Group: "web", Index: 1, SizeGB: 1, Attached: true}}
	made := d.apply()

	addresses := map[string]bool{}
	for id, vm := range made {
		addresses[vm.Address] = true
		home, err := d.run(vm, "echo $DEPLOY_VM; test -w "+vm.AgentDir)
		if err != nil || home != vm.ID {
			t.Errorf("%s: %q, %v", id, home, err)
		}
	}
	if len(addresses) != 3 {
		t.Errorf("addresses are %v", addresses)
	}
	if info, err := os.Stat(made["web/1"].Disk); err != nil || !info.IsDir() || made["web/0"].Disk != "" {
		t.Errorf("disks: %+v, %v", made, err)
	}

	t.Run("a second plan is empty", func(t *testing.T) {
		p := d.plan()
		if p.Pending || len(p.Changes) > 0 || !maps.Equal(p.Instances, made) {
			t.Errorf("the plan is %+v, made was %+v", p, made)
		}
	})

	t.Run("what was applied is known without the engine", func(t *testing.T) {
		digest := d.write()
		again, err := Open(d.options)
		if err != nil {
			t.Fatal(err)
		}
		applied, err := again.Applied()
		if err != nil || applied == nil || applied.Digest != digest || !maps.Equal(applied.Instances, made) {
			t.Errorf("applied is %+v, %v", applied, err)
		}
		before := modified(t, d.options.Dir)
		if _, err := again.Write(d.input); err != nil {
			t.Fatal(err)
		}
		if after := modified(t, d.options.Dir); !maps.Equal(before, after) {
			t.Errorf("writing the same input changed files: %v, then %v", before, after)
		}
	})

	t.Run("an engine run by hand sees no changes, and ours goes on after it", func(t *testing.T) {
		d.byHand("init", "-input=false")
		if output := d.byHand("plan", "-input=false", "-detailed-exitcode"); !strings.Contains(output, "No changes") {
			t.Error(output)
		}
		if p := d.plan(); p.Pending {
			t.Errorf("changes: %+v", p.Changes)
		}
	})

	t.Run("a dead init is started again", func(t *testing.T) {
		// As this machine calls it: on the VM it may be process 1.
		var status struct{ PID int }
		data, err := os.ReadFile(filepath.Join(d.options.VMs, "web-0", "status.json"))
		if err == nil {
			err = json.Unmarshal(data, &status)
		}
		pid := status.PID
		if err != nil || pid <= 1 {
			t.Fatalf("its init is process %d, %v", pid, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the end of the init", func() bool { return syscall.Kill(pid, 0) != nil })
		if actions := d.actions(d.plan()); len(actions) != 1 || actions["localvm_machine web/0"] != Update {
			t.Errorf("actions are %v", actions)
		}
		repaired := d.apply()
		if repaired["web/0"] != made["web/0"] {
			t.Errorf("it was %+v, is %+v", made["web/0"], repaired["web/0"])
		}
		must(d.run(repaired["web/0"], "true"))(t)
	})

	t.Run("a removed VM is made anew", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(d.options.VMs, "web-2")); err != nil {
			t.Fatal(err)
		}
		if actions := d.actions(d.plan()); len(actions) != 1 || actions["localvm_machine web/2"] != Create {
			t.Errorf("actions are %v", actions)
		}
		repaired := d.apply()
		if repaired["web/2"].ID == made["web/2"].ID || repaired["web/1"] != made["web/1"] {
			t.Errorf("it was %+v, is %+v", made, repaired)
		}
		must(d.run(repaired["web/2"], "true"))(t)
	})

	t.Run("one is asked for", func(t *testing.T) {
		before, err := d.Outputs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.write()
		p, err := d.Plan(t.Context(), "web/1", "web/7") // the latter does not exist
		if err != nil {
			t.Fatal(err)
		}
		if actions := d.actions(p); len(actions) != 1 || actions["localvm_machine web/1"] != Replace {
			t.Errorf("changes are %+v", p.Changes)
		}
		after, err := d.Apply(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := after["web/1"], before["web/1"]; a.ID == b.ID || a.Disk != b.Disk || after["web/0"] != before["web/0"] {
			t.Errorf("it was %+v, is %+v", before, after)
		}
	})

	t.Run("another size replaces the VM, which keeps its address", func(t *testing.T) {
		before, err := d.Outputs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		bigger := d.input.Instances["web/1"]
		bigger.MemoryMB = 128
		d.input.Instances["web/1"] = bigger
		d.write()
		p := d.plan()
		if actions := d.actions(p); len(actions) != 1 || actions["localvm_machine web/1"] != Replace || p.Changes[0].Name != "vm" {
			t.Errorf("changes are %+v", p.Changes)
		}
		if x := p.Instances["web/1"]; x.ID != "" || x.Address != before["web/1"].Address || x.AgentDir != before["web/1"].AgentDir {
			t.Errorf("planned is %+v", x)
		}
		replaced := d.apply()
		if x := replaced["web/1"]; x.ID == before["web/1"].ID || x.Address != before["web/1"].Address {
			t.Errorf("it was %+v, is %+v", before["web/1"], x)
		}
		if replaced["web/0"] != before["web/0"] {
			t.Error("another VM was touched")
		}
		made = replaced
		must(d.run(made["web/1"], "true"))(t)
	})

	t.Run("one is made beside another, which is deleted later", func(t *testing.T) {
		own, beside := "web/0", "web/0+"
		for range 2 { // there and back
			had := made[own]
			d.input.Instances[beside] = d.input.Instances[own]
			d.write()
			if actions := d.actions(d.plan()); len(actions) != 1 || actions["localvm_machine "+beside] != Create {
				t.Errorf("to make it: %v", actions)
			}
			both := d.apply()
			if both[own] != had || both[beside].ID == had.ID || both[beside].Address == had.Address || both["web/1"] != made["web/1"] {
				t.Errorf("it was %+v, there are %+v", had, both)
			}
			must(d.run(both[own], "true"))(t)
			must(d.run(both[beside], "true"))(t)

			delete(d.input.Instances, own)
			d.write()
			if actions := d.actions(d.plan()); len(actions) != 1 || actions["localvm_machine "+own] != Delete {
				t.Errorf("to delete the old one: %v", actions)
			}
			made = d.apply()
			if made[beside] != both[beside] || len(made) != 3 {
				t.Errorf("there were %+v, are %+v", both, made)
			}
			must(d.run(made[beside], "true"))(t)
			if p := d.plan(); p.Pending {
				t.Errorf("changes are left: %+v", p.Changes)
			}
			own, beside = beside, own
		}
	})

	t.Run("keys change in place", func(t *testing.T) {
		other := newDeployment(t, 0)
		d.input.SSHPublicKey, d.key = other.input.SSHPublicKey, other.key
		changed := d.apply()
		if changed["web/0"] != made["web/0"] {
			t.Error("another VM")
		}
		must(d.run(changed["web/0"], "true"))(t)
	})

	t.Run("destroy leaves nothing", func(t *testing.T) {
		if err := d.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := processesOf(t, d.options.VMs); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
		if left, err := os.ReadDir(d.options.VMs); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("files are left: %v, %v", left, err)
		}
		for _, vm := range made {
			l, err := net.Listen("tcp", net.JoinHostPort(vm.SSHHost, strconv.Itoa(vm.SSHPort)))
			if err != nil {
				t.Errorf("someone listens still: %v", err)
				continue
			}
			_ = l.Close()
		}
		if applied, err := d.Applied(); err != nil || applied != nil {
			t.Errorf("applied is %+v, %v", applied, err)
		}
	})
}

func TestTwoDeploymentsShareARange(t *testing.T) {
	t.Parallel()
	one, two := newDeployment(t, 1), newDeployment(t, 1)
	two.input.Settings = one.input.Settings
	seen := map[string]bool{}
	for _, d := range []*testDeployment{one, two} {
		for id, vm := range d.apply() {
			if seen[vm.Address] {
				t.Errorf("%s has address %s, which was taken", id, vm.Address)
			}
			seen[vm.Address] = true
		}
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, 2)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer web.Close()

	publish := func(port string) {
		d.input.Settings["publish"] = cty.ObjectVal(map[string]cty.Value{taken.Addr().String(): cty.StringVal("web:" + port)})
	}
	publish("1")
	d.write()
	d.plan()
	_, err = d.Apply(t.Context())
	var failure *Error
	if !errors.As(err, &failure) || len(failure.Diagnostics) != 1 || !strings.Contains(err.Error(), taken.Addr().String()) ||
		!strings.Contains(failure.Diagnostics[0].Address, "localvm_publish") || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("publishing a taken address: %v", err)
	}
	if applied, err := d.Applied(); err != nil || applied != nil {
		t.Errorf("after a failed apply, applied is %+v, %v", applied, err)
	}

	// The next apply works, and one that changes the targets keeps listening.
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	vms := d.apply()
	web.Listener, err = net.Listen("tcp", net.JoinHostPort(vms["web/1"].Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	web.Start()
	_, port, _ := net.SplitHostPort(web.Listener.Addr().String())
	publish(port)
	d.apply()
	for range 4 { // web/0 does not listen: every turn goes to web/1
		response, err := http.Get("http://" + taken.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || string(body) != "hello" {
			t.Errorf("%q, %v", body, err)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

func TestCancelledApplyIsContinued(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, 2)
	d.write()
	d.plan()
	ctx, cancel := context.WithCancel(t.Context())
	d.options.Report = func(line string) {
		if strings.Contains(line, "Creating...") {
			cancel()
		}
	}
	if _, err := d.Apply(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled apply: %v", err)
	}
	d.options.Report = func(string) {}
	d.write()
	if p := d.plan(); p.Pending { // the engine may have been done with both
		if _, err := d.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name  string
		value cty.Value
		want  []string
	}{
		"unknown":       {"cdir", cty.StringVal("127.3.0.0/16"), []string{"cdir", "cidr", "publish", "ssh_port"}},
		"foreign range": {"cidr", cty.StringVal("10.0.0.0/8"), []string{"cidr", "127.0.0.0/8"}},
		"no range":      {"cidr", cty.StringVal("127.0.0.1"), []string{"cidr", "127.0.0.0/8"}},
		"no port":       {"ssh_port", cty.NumberIntVal(0), []string{"ssh_port", "port number"}},
		"no such group": {"publish", cty.ObjectVal(map[string]cty.Value{"127.0.0.1:1": cty.StringVal("db:1")}), []string{"db", "no instances"}},
		"no target":     {"publish", cty.ObjectVal(map[string]cty.Value{"127.0.0.1:1": cty.StringVal("db")}), []string{"publish", "group:port"}},
	}
	d := newDeployment(t, 1)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := d.input
			in.Settings = map[string]cty.Value{test.name: test.value}
			if _, err := d.Write(in); err != nil {
				t.Fatal(err)
			}
			_, err := d.Plan(t.Context())
			var failure *Error
			if !errors.As(err, &failure) || len(failure.Diagnostics) == 0 {
				t.Fatalf("got %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(failure.Diagnostics[0].Summary+failure.Diagnostics[0].Detail, want) {
					t.Errorf("%q is missing in: %s", want, err)
				}
			}
		})
	}
	d.write() // what the clean-up destroys
}

// modified are the files below a folder with their times.
func modified(t *testing.T, dir string) map[string]string {
	t.Helper()
	times := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			times[path] = info.ModTime().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
