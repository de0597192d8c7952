package terraform

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// subject is a template that is to keep the contract, with what the suite needs to
// know of it beside the contract.
type subject struct {
	// another returns a deployment without instances, with an id of its own.
	another func(t *testing.T, id string) *testDeployment
	// boot is the time that a VM gets until it answers.
	boot time.Duration
	// stop ends a VM as a power cut would.
	stop func(d *testDeployment, key string, vm Instance)
}

// answer runs a command on a VM as soon as it lets us in, and returns the host key
// that it proved to have.
func (s subject) answer(t *testing.T, d *testDeployment, vm Instance, command string) (output, hostKey string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.boot)
	defer cancel()
	var last error
	for {
		output, hostKey, last = s.once(ctx, d, vm, command)
		if last == nil {
			return output, hostKey
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not answer within %s: %v", vm.Address, s.boot, last)
		case <-time.After(time.Second):
		}
	}
}

func (s subject) once(ctx context.Context, d *testDeployment, vm Instance, command string) (output, hostKey string, err error) {
	conn, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(vm.SSHHost, strconv.Itoa(vm.SSHPort)))
	if err != nil {
		return "", "", err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", "", err
	}
	algorithms := []string{ssh.KeyAlgoED25519}
	c, channels, requests, err := ssh.NewClientConn(conn, vm.SSHHost, &ssh.ClientConfig{
		User: vm.SSHUser, Auth: []ssh.AuthMethod{ssh.PublicKeys(d.key)}, HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			hostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
			return nil
		},
	})
	if err != nil {
		_ = conn.Close()
		return "", hostKey, err
	}
	client := ssh.NewClient(c, channels, requests)
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err != nil {
		return "", hostKey, err
	}
	data, err := session.CombinedOutput(command)
	if err != nil {
		return "", hostKey, fmt.Errorf("%w: %s", err, data)
	}
	return strings.TrimSpace(string(data)), hostKey, nil
}

// keepsTheContract is the suite that every template must pass.
func keepsTheContract(t *testing.T, s subject) {
	d := s.another(t, "first")
	for i := range 2 {
		d.input.Instances[fmt.Sprintf("web/%d", i)] = InstanceInput{Group: "web", Index: i, CPUs: 1, MemoryMB: 256}
	}
	d.input.Disks = map[string]DiskInput{"web/0": {Group: "web", Index: 0, SizeGB: 1, Attached: true}}

	t.Log("create: what the output says is true")
	vms := d.apply()
	if len(vms) != 2 || vms["web/0"].ID == vms["web/1"].ID || vms["web/0"].Address == vms["web/1"].Address {
		t.Fatalf("two VMs have two ids and addresses: %+v", vms)
	}
	if vms["web/0"].Disk == "" || vms["web/1"].Disk != "" {
		t.Errorf("only web/0 has a disk: %+v", vms)
	}
	keys := map[string]string{}
	for id, vm := range vms {
		out, key := s.answer(t, d, vm, "mkdir -p "+vm.AgentDir+" && echo old >"+vm.AgentDir+"/marker && uname -s")
		if out != "Linux" {
			t.Errorf("%s: %q", id, out)
		}
		if vm.SSHHostKey != "" && strings.Join(strings.Fields(vm.SSHHostKey)[:2], " ") != key {
			t.Errorf("%s has the host key %s, not %s as the output says", id, key, vm.SSHHostKey)
		}
		keys[id] = key
	}
	if keys["web/0"] == keys["web/1"] {
		t.Error("both VMs have the same host key")
	}
	s.answer(t, d, vms["web/0"], "echo kept >"+vms["web/0"].Disk+"/data && sync")

	t.Log("the same again: nothing")
	d.write()
	if p := d.plan(); p.Pending {
		t.Errorf("a second apply would do something: %+v", p.Changes)
	}

	t.Log("two deployments beside each other, scale up and down")
	other := s.another(t, "second")
	other.input.Instances["web/0"] = InstanceInput{Group: "web", CPUs: 1, MemoryMB: 256}
	others := other.apply()
	d.input.Instances["web/2"] = InstanceInput{Group: "web", Index: 2, CPUs: 1, MemoryMB: 256}
	larger := d.apply()
	for id, vm := range vms {
		if larger[id].ID != vm.ID || larger[id].Address != vm.Address {
			t.Errorf("%s became another VM when the group grew: %+v", id, larger[id])
		}
	}
	s.answer(t, d, larger["web/2"], "true")
	s.answer(t, other, others["web/0"], "true")
	delete(d.input.Instances, "web/2")
	if smaller := d.apply(); len(smaller) != 2 {
		t.Errorf("after scaling down: %+v", smaller)
	}
	if err := other.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}

	t.Log("recreate one: another VM, the same disk and address")
	d.write()
	p, err := d.Plan(t.Context(), "web/0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Changes {
		if c.Key != "web/0" || c.Name == DiskResource {
			t.Errorf("recreating web/0 would %s %s", c.Action, c.Address)
		}
	}
	again, err := d.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again["web/0"].ID == vms["web/0"].ID || again["web/0"].Address != vms["web/0"].Address || again["web/1"].ID != vms["web/1"].ID {
		t.Errorf("recreated: %+v", again)
	}
	out, key := s.answer(t, d, again["web/0"], "cat "+again["web/0"].Disk+"/data; test ! -e "+again["web/0"].AgentDir+"/marker && echo fresh")
	if out != "kept\nfresh" || key == keys["web/0"] {
		t.Errorf("the new VM: %q, host key the same: %v", out, key == keys["web/0"])
	}

	t.Log("drift: a VM that ended is started")
	s.stop(d, "web/1", again["web/1"])
	d.write()
	if p := d.plan(); !p.Pending {
		t.Error("a VM that ended is not seen")
	}
	repaired, err := d.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, key := s.answer(t, d, repaired["web/1"], "cat "+repaired["web/1"].AgentDir+"/marker"); repaired["web/1"].ID == again["web/1"].ID && (out != "old" || key != keys["web/1"]) {
		t.Errorf("the same VM is back without its files or key: %q", out)
	}
}

// TestLocalKeepsTheContract: newDeployment's clean-up destroys all and looks for what
// is left.
func TestLocalKeepsTheContract(t *testing.T) {
	keepsTheContract(t, subject{
		another: func(t *testing.T, id string) *testDeployment {
			d := newDeployment(t, 0)
			d.input.Deployment = Deployment{Name: id, ID: "d-" + id}
			return d
		},
		boot: time.Minute,
		stop: func(d *testDeployment, key string, vm Instance) {
			folder := filepath.Join(d.options.VMs, strings.ReplaceAll(key, "/", "-"))
			waitFor(t, "the VM ends", func() bool {
				for _, pid := range processesOf(t, folder) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				return len(processesOf(t, folder)) == 0
			})
		},
	})
}
