package terraform

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/crypto/ssh"
)

// testDeployment is a deployment on templates/local with the real engine.
type testDeployment struct {
	*Runner
	t      *testing.T
	input  Input
	key    ssh.Signer
	report []string
}

// newDeployment returns a deployment of n VMs in group web. At the test's end
// everything is destroyed, and nothing may be left.
func newDeployment(t *testing.T, n int) *testDeployment {
	t.Helper()
	d := &testDeployment{t: t}
	base := t.TempDir()
	var err error
	d.Runner, err = Open(Options{
		Dir:       filepath.Join(base, "terraform"),
		VMs:       filepath.Join(base, "vms"),
		Templates: os.DirFS("../../../templates"),
		Template:  "local",
		BaseDir:   base,
		// The tests are about a real engine, not about building one.
		Find:   FindOptions{CacheDir: filepath.Join(base, "engines")},
		Report: func(line string) { d.report = append(d.report, line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d.key, err = ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	d.input = Input{
		Deployment:   Deployment{Name: "test", ID: "d-1"},
		Instances:    map[string]InstanceInput{},
		SSHPublicKey: string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(sshPublic))),
		Settings:     map[string]cty.Value{"cidr": cty.StringVal(freeRange())},
	}
	for i := range n {
		d.input.Instances[fmt.Sprintf("web/%d", i)] = InstanceInput{
			Group: "web", Index: i, CPUs: 1, MemoryMB: 64, Tags: map[string]string{"odd ${key}": "%{if} ${value}"},
		}
	}
	t.Cleanup(func() {
		if d.root != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := d.Destroy(ctx); err != nil {
				t.Errorf("cannot clean up: %s", err)
			}
		}
		d.Close()
		for _, pid := range processesOf(t, d.options.VMs) {
			t.Errorf("process %d is left", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return d
}

// freeRange is a small range that other tests at work hardly use.
func freeRange() string {
	return fmt.Sprintf("127.%d.%d.0/24", 64+mathrand.IntN(64), mathrand.IntN(256))
}

// processesOf finds the processes that name a folder in their environment or
// command line.
func processesOf(t *testing.T, folder string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		command, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if bytes.Contains(environ, []byte(folder)) || bytes.Contains(command, []byte(folder)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d *testDeployment) write() string {
	d.t.Helper()
	digest, err := d.Write(d.input)
	if err != nil {
		d.t.Fatal(err)
	}
	return digest
}

func (d *testDeployment) plan() *Plan {
	d.t.Helper()
	p, err := d.Plan(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

// apply writes, plans and applies.
func (d *testDeployment) apply() map[string]Instance {
	d.t.Helper()
	d.write()
	if p := d.plan(); !p.Pending {
		d.t.Fatal("nothing to apply")
	}
	instances, err := d.Apply(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	for id, instance := range instances {
		if !instance.Running {
			d.t.Fatalf("%s does not run", id)
		}
	}
	return instances
}

// run runs a command on a VM, with its host key checked.
func (d *testDeployment) run(vm Instance, command string) (string, error) {
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(vm.SSHHostKey))
	if err != nil {
		return "", err
	}
	client, err := ssh.Dial("tcp", net.JoinHostPort(vm.SSHHost, strconv.Itoa(vm.SSHPort)), &ssh.ClientConfig{
		User:            vm.SSHUser,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(d.key)},
		HostKeyCallback: ssh.FixedHostKey(hostKey),
		Timeout:         20 * time.Second,
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	output, err := session.CombinedOutput(command)
	return strings.TrimSpace(string(output)), err
}

func (d *testDeployment) actions(p *Plan) map[string]Action {
	actions := map[string]Action{}
	for _, c := range p.Changes {
		actions[c.Type+" "+c.Key] = c.Action
	}
	return actions
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// byHand runs the engine as a person would in the work folder.
func (d *testDeployment) byHand(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(d.engine.Path, args...)
	cmd.Dir = d.options.Dir
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+filepath.Join(d.options.Dir, "terraform.rc"))
	output, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s: %s\n%s", strings.Join(cmd.Args, " "), err, output)
	}
	return string(output)
}
