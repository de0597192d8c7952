//go:build e2e

package examples

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bad days, each with what the user is told and what becomes of the next apply:
//
//	fault                             test
//	wrong manifest                    TestWrongManifest (failures_test.go)
//	address in use                    TestAddressInUse (failures_test.go)
//	program missing on the VM         TestMissingSystemProgram (failures_test.go)
//	deployer killed, suspended        interrupted_test.go
//	job that exits at once            TestJobThatExitsAtOnce (failures_test.go)
//	any part killed at random         TestKillMatrix (killmatrix_test.go)
//	wrong host key                    TestWrongHostKey
//	SSH refused                       TestSSHRefused
//	upload cut                        TestUploadCut
//	disk full while staging           TestDiskFullWhileStaging
//	package digest wrong              TestWrongPackageDigest
//	hook that hangs, hook that fails  TestHooks
//	job that dies after a second      TestJobThatDiesAfterASecond
//	template error on one instance    TestTemplateErrorOnTheThirdInstance
//	engine fails half-way             TestEngineFailsHalfWay
//	clock an hour off                 TestClockAnHourOff
//	bus gone during an apply          TestBusGoneDuringApply
//	two applies at once               TestTwoAppliesAtOnce
//	state folder read-only            TestStateFolderReadOnly
//	agent of another deployment       TestAgentOfAnotherDeployment
//	agent older, newer than deployer  TestAgentOfAnotherVersion, TestAgentOfAnotherAPI
//	agent that hangs                  TestAgentThatHangs
//	init that dies alone              TestInitDiesAlone
//	a VM that must not be deleted     TestPreventDestroy

// vmDir is the folder of a local VM of a shellCluster.
func (c *cluster) vmDir(vm string) string { return filepath.Join(c.state, "scripts", "vms", vm) }

// initOf is the pid of a local VM's init.
func (c *cluster) initOf(vm string) int {
	c.t.Helper()
	for _, p := range processesUnder(c.vmDir(vm)) {
		if fields := strings.Fields(p); len(fields) > 2 && fields[2] == "local-init" {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				c.t.Fatal(err)
			}
			return pid
		}
	}
	c.t.Fatalf("no init runs for %s", vm)
	return 0
}

// mustFail applies, and checks that it fails and what is told.
func (c *cluster) mustFail(flags []string, wants ...string) string {
	c.t.Helper()
	out, code := c.run("apply", append([]string{"--auto-approve"}, flags...)...)
	c.t.Logf("what is told:\n%s", out)
	if code != 1 {
		c.t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			c.t.Errorf("it does not tell %q", want)
		}
	}
	return out
}

// mustMend checks that the next apply works, and that nothing is owed after it.
func (c *cluster) mustMend(n int, flags ...string) status {
	c.t.Helper()
	if out, code := c.run("apply", append([]string{"--auto-approve"}, flags...)...); code != 0 {
		c.t.Fatalf("the next apply exited with %d:\n%s", code, out)
	}
	if out, code := c.run("plan", flags...); code != 0 {
		c.t.Errorf("a plan after it exited with %d:\n%s", code, out)
	}
	return c.mustAllRun(n)
}

// mustKeep checks that no process was touched.
func (c *cluster) mustKeep(before status) {
	c.t.Helper()
	c.mustHavePids(before.pids())
}

func (c *cluster) mustHavePids(before map[string]int) {
	c.t.Helper()
	if after := c.status().pids(); !reflect.DeepEqual(before, after) {
		c.t.Errorf("pids changed from %v to %v", before, after)
	}
}

// job changes the job of a shellCluster: blocks are added to its job.hcl.
func (c *cluster) job(blocks string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.jobs, "script", "job.hcl"), []byte(shellJob+blocks), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

const changed = "--var=script=: changed; exec sleep 1000"

// privatePackages are built packages of the test's own: agent and shim, passed
// through change (nil leaves one out), programs as they were built, and one more,
// big, of random bytes. deploy uses them from here on.
func (c *cluster) privatePackages(size int, change func(name string, program []byte) []byte, programs ...string) string {
	t := c.t
	t.Helper()
	platform := runtime.GOOS + "_" + runtime.GOARCH
	from, out := t.TempDir(), t.TempDir()
	pack := []string{"big"}
	for _, name := range append(programs, "agent", "shim") {
		data, err := os.ReadFile(filepath.Join("../bin/programs", platform, name))
		if err != nil {
			t.Fatalf("the built programs are missing, run make build: %v", err)
		}
		if change != nil && (name == "agent" || name == "shim") {
			if data = change(name, data); data == nil {
				continue
			}
		}
		pack = append(pack, name)
		if err := os.WriteFile(filepath.Join(from, name), data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	big := make([]byte, size)
	rand.Read(big)
	if err := os.WriteFile(filepath.Join(from, "big"), big, 0o700); err != nil {
		t.Fatal(err)
	}
	args := append([]string{from, filepath.Join(out, platform), runtime.GOOS + "/" + runtime.GOARCH}, pack...)
	if out, err := exec.Command("../bin/pack", args...).CombinedOutput(); err != nil {
		t.Fatalf("pack: %v\n%s", err, out)
	}
	c.setenv("DEPLOY_PACKAGES", out)
	return filepath.Join(out, platform)
}

const bigPackage = `
package "big" { program = "big" }
`

// Another machine answers at the VM's address: not the key that state and
// infrastructure tell. The local VM's init keeps its own in memory.
func TestWrongHostKey(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.mustApply()
	before := c.mustAllRun(2)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, stateFile := filepath.Join(c.vmDir("app-0"), "ssh_host_ed25519_key"), filepath.Join(c.state, "scripts", "state.json")
	read := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(file string, content []byte) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ownKey, ownState := read(keyFile), read(stateFile)
	own, err := ssh.ParsePrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	line := func(key ssh.PublicKey) []byte { return bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)) }
	write(keyFile, pem.EncodeToMemory(block))
	write(stateFile, bytes.ReplaceAll(ownState, line(own.PublicKey()), line(signer.PublicKey())))
	c.mustFail([]string{changed}, "cannot reach the VM of app/0: cannot trust the host at", ssh.FingerprintSHA256(own.PublicKey()),
		"expected was "+ssh.FingerprintSHA256(signer.PublicKey()), "another machine answers", "compare the host key")
	write(keyFile, ownKey)
	write(stateFile, bytes.ReplaceAll(read(stateFile), line(signer.PublicKey()), line(own.PublicKey())))
	c.mustKeep(before)
	c.mustMend(2, changed)
}

// The VM is down and its SSH port is held by something else.
func TestSSHRefused(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.mustApply()
	before := c.mustAllRun(2)
	address := net.JoinHostPort(before.Instances[0].Address, "2222")
	kill(t, c.initOf("app-0"))
	var l net.Listener
	within(t, 30*time.Second, "the port is free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	defer l.Close()
	out, _ := c.run("status")
	if !strings.Contains(out, "app/0") || !strings.Contains(out, "silent") {
		t.Errorf("status does not tell that app/0 is silent:\n%s", out)
	}
	c.mustFail([]string{changed}, "app/0", address, "in use", "end what listens on "+address)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.mustMend(2, changed)
}

// The connection ends in the middle of an upload.
func TestUploadCut(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	archives := c.privatePackages(96<<20, nil)
	c.mustApply()
	c.job(bigPackage)
	info, err := os.Stat(filepath.Join(archives, "big.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	incoming, pid := filepath.Join(c.vmDir("app-0"), "agent", "incoming"), c.initOf("app-0")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cut := make(chan int64, 1)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			entries, _ := os.ReadDir(incoming)
			for _, e := range entries {
				if part, err := e.Info(); err == nil && part.Size() > 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL) // the size tells whether it was in time
					part, _ = e.Info()
					cut <- part.Size()
					return
				}
			}
			<-tick.C
		}
		close(cut)
	}()
	c.mustFail(nil, "cannot install package big.tar.gz on app/0", "cannot write", "connection", "apply again")
	if got := <-cut; got == 0 || got >= info.Size() {
		t.Fatalf("the upload was not cut: %d of %d bytes", got, info.Size())
	}
	entries, err := filepath.Glob(filepath.Join(incoming, "*.tar.gz"))
	if err != nil || len(entries) > 0 {
		t.Errorf("a part of an upload looks like a whole: %v, %v", entries, err)
	}
	c.mustMend(2)
}

// mount mounts something for the time of a test. It needs root, as CI has.
func mount(t *testing.T, source, target, kind string, flags uintptr, data string) (unmount func()) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("this test must be allowed to mount file systems (root and CAP_SYS_ADMIN): cannot mount %s: %v", target, err)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", target, err)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

func TestDiskFullWhileStaging(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.isolate("none") // what is mounted here is not seen in namespaces that were there first
	c.privatePackages(2<<20, nil)
	c.mustApply()
	before := c.mustAllRun(3)
	c.job(bigPackage)
	unmount := mount(t, "tmpfs", filepath.Join(c.vmDir("app-1"), "agent", "store"), "tmpfs", 0, "size=1m")
	c.mustFail([]string{changed}, "app/1", "the disk is full", "package big", "no space left on device", "nothing was touched")
	c.mustKeep(before)
	unmount()
	c.mustMend(3, changed)
}

func TestWrongPackageDigest(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	archives := c.privatePackages(1<<20, nil)
	c.mustApply()
	before := c.mustAllRun(2)
	c.job(bigPackage)
	file := filepath.Join(archives, "big.tar.gz")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustFail([]string{changed}, "big.tar.gz", "sha256", "make build")
	c.mustKeep(before)
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// What lies on a VM under the package's name, and is as long, is another whole
	// archive: the agent looks at every byte.
	wrong := archiveOf(t, "big", []byte("something else"), len(good))
	digest := digestOf(t, filepath.Dir(archives), "big")
	incoming := filepath.Join(c.vmDir("app-0"), "agent", "incoming")
	if err := os.MkdirAll(incoming, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(incoming, digest+".tar.gz"), wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	c.mustMend(2, changed)
	installed := func(vm string) []byte {
		t.Helper()
		program, err := os.ReadFile(filepath.Join(c.vmDir(vm), "agent", "store", digest, "big"))
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	if !bytes.Equal(installed("app-0"), installed("app-1")) {
		t.Error("another program than the digest says was installed on app/0")
	}
}

// archiveOf is a package of one program, padded to a size.
func archiveOf(t *testing.T, name string, program []byte, size int) []byte {
	t.Helper()
	pack := func(padding int) []byte {
		var out bytes.Buffer
		compressed, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
		if err != nil {
			t.Fatal(err)
		}
		compressed.Extra = make([]byte, 1000)
		archive := tar.NewWriter(compressed)
		for _, file := range []struct {
			name    string
			content []byte
		}{{name, program}, {"padding", make([]byte, padding)}} {
			err := archive.WriteHeader(&tar.Header{Name: "./" + file.name, Mode: 0o755, Size: int64(len(file.content)), Format: tar.FormatUSTAR})
			if err == nil {
				_, err = archive.Write(file.content)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	// Most of it as a file, whose length counts in blocks, the rest in the header.
	whole := pack(size - size%512 - 8<<10)
	missing := size - len(whole)
	if missing < 0 || missing > 60_000 {
		t.Fatalf("cannot pad: %d bytes are missing", missing)
	}
	const extraAt = 10 // of its length, in a gzip header
	length := binary.LittleEndian.Uint16(whole[extraAt:]) + uint16(missing)
	out := binary.LittleEndian.AppendUint16(bytes.Clone(whole[:extraAt]), length)
	out = append(out, make([]byte, length)...)
	return append(out, whole[extraAt+2+1000:]...)
}

func TestHooks(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.mustApply()
	before := c.mustAllRun(3)
	hook := func(kind, script string, more ...string) {
		c.job(fmt.Sprintf(`
hook %q {
  command = ["/bin/sh", "-c", %q]
  timeout = "1s"
  %s
}
`, kind, script, strings.Join(more, "\n")))
	}

	// A check runs before anything is touched.
	hook("check", "echo the answer is not 42 >&2; exit 3")
	c.mustFail(nil, "check", "script", "status 3", "the answer is not 42", "nothing was touched")
	c.mustKeep(before)
	hook("check", "echo waiting for ever; exec sleep 1000")
	c.mustFail(nil, "check", "script", "1s", "waiting for ever", "nothing was touched")
	c.mustKeep(before)

	// A hook of the update ends at the canary, which is put back.
	for _, test := range []struct{ script, why string }{
		{"echo no database here; exit 4", "status 4"},
		{"echo no database here; exec sleep 1000", "1s"},
	} {
		hook("pre_start", test.script, `rollback = "compatible"`)
		c.mustFail([]string{changed}, "pre_start", "script", test.why, "no database here", "put back")
		different := 0
		for name, pid := range c.mustAllRun(3).pids() {
			if before.pids()[name] != pid {
				different++
			}
		}
		if different > 1 {
			t.Errorf("%d instances were touched, want the canary alone", different)
		}
		before = c.status()
	}
	if left := processesUnder(c.vmDir("app-0")); strings.Contains(strings.Join(left, "\n"), "no database") {
		t.Errorf("a hook still runs: %v", left)
	}

	// Data is not put back, so what may have changed it is not either, unless the
	// job says that it may.
	hook("pre_start", "echo half migrated; exit 4")
	c.mustFail([]string{changed}, "app/0", "half migrated", "status 4", "not put back", `rollback = "compatible"`)
	different := 0
	for name, pid := range c.status().pids() {
		if before.pids()[name] != pid {
			different++
		}
	}
	if different > 1 {
		t.Errorf("%d instances were touched, want the canary alone", different)
	}
	hook("pre_start", "exit 0")
	c.mustMend(3, changed)
}

// Healthy at first sight: min_healthy_time is there to see it.
func TestJobThatDiesAfterASecond(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.edit(`"300ms"`, `"4s"`)
	c.mustApply()
	before := c.mustAllRun(3).pids()
	c.mustFail([]string{"--var=script=sleep 1; echo lost the database; exit 5"},
		"app/0", "status 5", "lost the database", "put back")
	different := 0
	for name, pid := range c.mustAllRun(3).pids() {
		if before[name] != pid {
			different++
		}
	}
	if different > 1 {
		t.Errorf("%d instances were touched, want the canary alone", different)
	}
	c.mustMend(3, changed)
}

func TestTemplateErrorOnTheThirdInstance(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.mustApply()
	before := c.mustAllRun(3)
	file := filepath.Join(c.jobs, "script", "templates", "script.sh")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# ${[\"a\", \"b\"][instance.index]}\n${property.script}\n")
	c.mustFail([]string{changed}, "script.sh line 1", "app/2")
	out, code := c.run("validate")
	mustTell(t, out, code, 1, "script.sh line 1", "app/2")
	c.mustKeep(before)
	write("# ${[\"a\", \"b\", \"c\"][instance.index]}\n${property.script}\n")
	c.mustMend(3, changed)
}

// A template that makes some VMs and then fails for one.
func TestEngineFailsHalfWay(t *testing.T) {
	t.Parallel()
	c := busCluster(t) // so that an apply may leave the engine out
	dir := filepath.Join(t.TempDir(), "template")
	if err := os.CopyFS(dir, os.DirFS("../templates/local")); err != nil {
		t.Fatal(err)
	}
	rewrite := func(name, old, new string) {
		path := filepath.Join(dir, name)
		source, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(source, []byte(old)) {
			t.Fatalf("%s has no %q (%v)", name, old, err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(source, []byte(old), []byte(new)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const machine = `resource "localvm_machine" "vm" {`
	condition := machine + `
  lifecycle {
    postcondition {
      condition     = self.address != "" && each.key != "app/3"
      error_message = "The quota of this project is 3 VMs."
    }
  }
`
	rewrite("main.tf", machine, condition)
	c.edit(`infrastructure "local"`, fmt.Sprintf("infrastructure %q", dir))
	c.mustApply()
	within(t, 60*time.Second, "all agents are on the bus", func() bool { return c.onTheBus() })
	before := c.mustAllRun(3)
	c.edit("instances = 2", "instances = 5")
	c.mustFail(nil, "The quota of this project is 3 VMs", "app/3")
	for id, pid := range before.pids() {
		if c.status().pids()[id] != pid {
			t.Errorf("%s was touched", id)
		}
	}
	// Whoever takes the change back gets rid of what was made of it: the manifest is
	// then what was last applied in full, but the world is not.
	if made, err := filepath.Glob(c.vmDir("app-[234]")); err != nil || len(made) == 0 {
		t.Fatalf("the engine has made %v, %v", made, err)
	}
	c.edit("instances = 5", "instances = 2")
	c.mustMend(3)
	c.mustKeep(before)
	if made, err := filepath.Glob(c.vmDir("app-[234]")); err != nil || len(made) > 0 {
		t.Errorf("left are %v, %v", made, err)
	}
	c.edit("instances = 2", "instances = 5")
	rewrite("main.tf", condition, machine)
	c.mustMend(6)
}

// busCluster is a shellCluster with a message bus.
func busCluster(t *testing.T) *cluster {
	c := shellCluster(t, 2, waits)
	c.edit(`group "app" {`, `secret "bus" { type = "password" }
group "nats" {
  job "nats" {
    properties { password = secret.bus.value }
  }
}
group "app" {
  depends_on = [group.nats]`)
	return c
}

// onTheBus tells whether every agent answers on the bus: an apply with nothing
// to do then makes no SSH connection.
func (c *cluster) onTheBus(flags ...string) bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	out, err := c.command(ctx, "apply", append([]string{"--auto-approve", "--json"}, flags...)...).Output()
	return err == nil && bytes.Contains(out, []byte(`"ssh_dials":0`))
}

// builtAgent is the real agent, built with other sources: change is given each
// file by its path.
func builtAgent(t *testing.T, change map[string]func(source string) string) []byte {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for path, f := range change {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := f(string(source))
		if changed == string(source) {
			t.Fatalf("%s is not what this test knows", path)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[path], []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"),
		"-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "agent"), "../agent/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build another agent: %v\n%s", err, out)
	}
	agent, err := os.ReadFile(filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

// The wall clocks of the VMs are an hour behind the deployer's and the bus's,
// then an hour ahead: certificates made now are not valid there yet, or are older than
// they seem, and what they tell of time is wrong. Their agent is the real one,
// built with a time.Now that is off.
func TestClockAnHourOff(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	const now, off = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "by seconds: -3600"
	// One build for both: what is off is a text in the program.
	late := builtAgent(t, map[string]func(string) string{
		filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go"): func(source string) string {
			return strings.Replace(source, now, now+"\tsec += clockOff\n", 1) + `
var clockOffText = "` + off + `"

var clockOff = func() int64 {
	n := int64(0)
	for _, digit := range clockOffText[len(clockOffText)-4:] {
		n = 10*n + int64(digit-'0')
	}
	if clockOffText[len(clockOffText)-5] == '-' {
		n = -n
	}
	return n
}()
`
		},
	})
	if n := bytes.Count(late, []byte(off)); n != 1 {
		t.Fatalf("the agent's program holds %q %d times", off, n)
	}
	ahead := bytes.Replace(late, []byte(off), []byte("by seconds: +3600"), 1)

	c := busCluster(t)
	began := time.Now()
	packages := func(agent []byte) {
		c.privatePackages(1, func(name string, _ []byte) []byte {
			return map[string][]byte{"agent": agent}[name] // which is its own shim, by the same clock
		}, "nats")
	}
	packages(late)
	c.mustApply()
	within(t, 60*time.Second, "all agents are on the bus", func() bool { return c.onTheBus() })
	before := c.mustAllRun(3).pids()
	c.mustMend(3, changed)
	for name, pid := range c.status().pids() {
		if restarted := pid != before[name]; restarted != strings.HasPrefix(name, "app/") {
			t.Errorf("%s: pid was %d and is %d", name, before[name], pid)
		}
	}
	mustTell := func(way string) {
		t.Helper()
		out, code := c.run("status", "--exit-code")
		if want := "clock is 1h0m0s " + way + " this machine's"; code != 3 || !strings.Contains(out, want) {
			t.Errorf("status exited with %d and does not tell %q:\n%s", code, want, out)
		}
	}
	// started are those that were started by this clock.
	mustBeOff := func(by time.Duration, started string) {
		t.Helper()
		for _, in := range c.mustAllRun(3).Instances {
			for _, p := range in.Processes {
				if most := time.Since(began); in.Group == started && p.UptimeS > int64(most.Seconds())+60 {
					t.Errorf("%s runs for %d s, %v after the first apply", in.ID, p.UptimeS, most)
				}
			}
		}
		log, err := os.ReadFile(filepath.Join(c.vmDir("app-0"), "log", "agent.log"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		last, _, _ := strings.Cut(strings.TrimPrefix(lines[len(lines)-1], "time="), " ")
		at, err := time.Parse(time.RFC3339, last)
		if is := time.Until(at); err != nil || is < by-time.Minute || is > by+time.Minute {
			t.Errorf("the agent's clock is off by %v, want %v: its log ends at %q (%v)", is, by, last, err)
		}
	}
	mustBeOff(-time.Hour, "nats")
	mustTell("behind")

	// Two hours pass at once; no process notices.
	before = c.status().pids()
	packages(ahead)
	c.mustMend(3, changed)
	within(t, 60*time.Second, "all agents are on the bus", func() bool { return c.onTheBus(changed) })
	c.mustHavePids(before)
	c.mustMend(3, "--var=script=: again; exec sleep 1000")
	mustBeOff(time.Hour, "app")
	mustTell("ahead of")

	// Agents with the right clock end it, and what runs stays.
	before = c.status().pids()
	c.privatePackages(1, nil, "nats")
	c.mustMend(3, "--var=script=: again; exec sleep 1000")
	c.mustHavePids(before)
	if out, code := c.run("status", "--exit-code"); code != 0 {
		t.Errorf("status exited with %d after it:\n%s", code, out)
	}
}

// startApply starts an apply and returns when it has told something.
func (c *cluster) startApply(until string, flags ...string) (cmd *exec.Cmd, told func() string) {
	c.t.Helper()
	out, err := os.Create(filepath.Join(c.t.TempDir(), "output"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c.t.Cleanup(cancel)
	cmd = c.command(ctx, "apply", append([]string{"--auto-approve"}, flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	told = func() string {
		data, err := os.ReadFile(out.Name())
		if err != nil {
			c.t.Error(err)
		}
		return string(data)
	}
	within(c.t, time.Minute, fmt.Sprintf("apply tells %q", until), func() bool { return strings.Contains(told(), until) })
	return cmd, told
}

// The bus dies in the middle of a rollout and stays away: the agents are reached over
// SSH, what was to change changes, and the apply does not call the whole good.
func TestBusGoneDuringApply(t *testing.T) {
	t.Parallel()
	c := busCluster(t)
	c.edit(`"300ms"`, `"2s"`)
	c.mustApply()
	within(t, 30*time.Second, "all agents are on the bus", func() bool { return c.onTheBus() })
	bus, agent := c.status().pids()["nats/0 nats"], agentOf(t, c, "nats-0")
	cmd, told := c.startApply("updated", changed)
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kill(t, bus)
	err := cmd.Wait()
	t.Logf("what is told:\n%s", told())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("an apply does not need the bus, and says that it is away: want exit status 3, got %v", err)
	}
	for _, want := range []string{"app/0            updated", "app/1            updated", "everything matches the manifest, but nats/0 is failing: its agent does not answer"} {
		if !strings.Contains(told(), want) {
			t.Errorf("it does not tell %q", want)
		}
	}
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.mustMend(3, "--var=script=: again; exec sleep 1000")
}

func TestTwoAppliesAtOnce(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.edit(`"300ms"`, `"3s"`)
	c.mustApply()
	first, told := c.startApply("prepared", changed)
	var agents []int
	for _, vm := range []string{"app-0", "app-1"} { // so that the first one cannot end
		agents = append(agents, agentOf(t, c, vm))
	}
	for _, pid := range agents {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	const mine = "--var=script=: mine; exec sleep 1000"
	holder := fmt.Sprintf("process %d (deploy apply", first.Process.Pid)
	c.mustFail([]string{mine}, "another deploy works on this deployment", holder, "wait for it", "--lock-wait", "--takeover")
	out, code := c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "another deploy works on this deployment")
	second, toldSecond := c.startApply("waiting up to 2m0s for "+holder, "--lock-wait=2m", mine)
	for _, pid := range agents {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Wait(); err != nil {
		t.Errorf("the first one was disturbed: %v\n%s", err, told())
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second one, which waited: %v\n%s", err, toldSecond())
	}
	c.mustMend(2, mine)
}

func TestStateFolderReadOnly(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.isolate("none")
	if err := os.Mkdir(c.state, 0o700); err != nil {
		t.Fatal(err)
	}
	readOnly := func(dir string) (unmount func()) {
		unmount = mount(t, dir, dir, "", syscall.MS_BIND, "")
		if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatalf("cannot make %s read-only: %v", dir, err)
		}
		return unmount
	}
	unmount := readOnly(c.state)
	c.mustFail(nil, filepath.Join(c.state, "scripts"), "read-only file system", "--state")
	unmount()
	c.mustApply()
	before := c.mustAllRun(2)

	// The VMs' own folders, which are below it here, stay as they are.
	dir, vms := filepath.Join(c.state, "scripts"), filepath.Join(c.state, "scripts", "vms")
	unmount = readOnly(dir)
	unmountVMs := mount(t, vms, vms, "", syscall.MS_BIND, "")
	if err := syscall.Mount("", vms, "", syscall.MS_BIND|syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	c.mustFail([]string{changed}, dir, "read-only file system", "nothing was begun")
	c.mustKeep(before)
	unmountVMs()
	unmount()
	c.mustMend(2, changed)
}

// The state is another deployment's than the machines': one was lost and made
// anew, or the folders were mixed up.
func TestAgentOfAnotherDeployment(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.mustApply()
	before := c.mustAllRun(2)
	file := filepath.Join(c.state, "scripts", "state.json")
	own, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		ID string `json:"deployment_id"`
	}
	if err := json.Unmarshal(own, &state); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("ab", len(state.ID)/2)
	if err := os.WriteFile(file, bytes.ReplaceAll(own, []byte(state.ID), []byte(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	// Where state and secrets do not agree, nobody is asked.
	secrets := filepath.Join(c.state, "scripts", "secrets.json")
	c.mustFail([]string{changed}, "holds the secrets of another deployment", secrets, "nothing was written", "deploy state import")
	ownSecrets := mustRead(t, secrets)
	if err := os.WriteFile(secrets, bytes.ReplaceAll(ownSecrets, []byte(state.ID), []byte(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustFail([]string{changed}, "belongs to another deployment", state.ID, filepath.Join(c.state, "scripts"), "--state")
	for name, text := range map[string][]byte{file: own, secrets: ownSecrets} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.mustKeep(before)
	c.mustMend(2, changed)
}

// An agent that is not this deploy's is replaced, the other way round too, and
// no process notices.
func TestAgentOfAnotherVersion(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.mustApply()
	before := c.mustAllRun(2)
	c.privatePackages(1, func(_ string, program []byte) []byte { return append(program, "newer"...) })
	for range 2 {
		out, code := c.run("plan")
		mustTell(t, out, code, 2, "agent program", "app/0", "app/1")
		c.mustMend(2)
		c.mustKeep(before)
		c.setenv("DEPLOY_PACKAGES", "") // the one that was there first
	}
}

// An agent may speak another version of the API than deploy does: an older one
// is replaced before it is asked for anything, and a newer one is left alone,
// since a newer deploy has put it there.
func TestAgentOfAnotherAPI(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.mustApply()
	before := c.mustAllRun(2)
	dir := filepath.Join(c.vmDir("app-0"), "agent")
	install := func(agent []byte) {
		t.Helper()
		program := filepath.Join(dir, "bin", "agent-by-hand")
		if err := os.WriteFile(program+".new", agent, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
		// The init starts another program only under another name.
		sum := sha256.Sum256(agent)
		named := program + "-" + hex.EncodeToString(sum[:4])
		if err := os.Rename(program, named); err != nil {
			t.Fatal(err)
		}
		cmd := c.command(t.Context(), "ssh")
		cmd.Args = append(cmd.Args, "app/0", "--", named+" install --dir "+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot install another agent: %v\n%s", err, out)
		}
	}
	speaks := func(version int) []byte {
		path, err := filepath.Abs("../agent/api/version.go")
		if err != nil {
			t.Fatal(err)
		}
		const mine = "const Version = "
		return builtAgent(t, map[string]func(string) string{path: func(source string) string {
			return regexp.MustCompile(mine+`\d+`).ReplaceAllString(source, mine+strconv.Itoa(version))
		}})
	}

	install(speaks(0))
	out, code := c.run("plan")
	mustTell(t, out, code, 2, "app/0", "agent program")
	c.mustMend(2)
	c.mustKeep(before)

	// A newer one blocks its instance, and only that.
	install(speaks(1000))
	for _, command := range [][]string{{"plan"}, {"apply", "--auto-approve", changed}} {
		out, code := c.run(command[0], command[1:]...)
		mustTell(t, out, code, 3, "agent of app/0", "is newer", "speaks version 1000 of the agents' API", "use the deploy that has put it there")
	}
	own, err := os.ReadFile(filepath.Join("../bin/packages", runtime.GOOS+"_"+runtime.GOARCH, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	install(own) // as the newer deploy would, when it is told to go back
	within(t, time.Minute, "app/0 runs as before", func() bool { return c.status().pids()["app/0 main"] == before.pids()["app/0 main"] })
	if c.status().pids()["app/1 main"] == before.pids()["app/1 main"] {
		t.Error("app/1 was not updated beside it")
	}
	c.mustMend(2, changed)
}

// An agent that is there and does not answer is named at once, by everything that
// asks it, and started anew by an apply. What it supervises notices nothing.
func TestAgentThatHangs(t *testing.T) {
	t.Parallel()
	c := busCluster(t)
	c.mustApply()
	within(t, 60*time.Second, "all agents are on the bus", func() bool { return c.onTheBus() })
	before := c.mustAllRun(3)
	agent := agentOf(t, c, "app-0")
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, command := range []struct {
		name string
		code int
	}{{"status", 0}, {"plan", 2}} {
		began := time.Now()
		out, code := c.run(command.name)
		mustTell(t, out, code, command.code, "app/0", "hangs", "apply restarts it")
		if took := time.Since(began); took > 30*time.Second { // 6 s on a machine that is not busy
			t.Errorf("%s took %v", command.name, took)
		}
	}
	out := c.mustApply()
	if want := "the agent (process "; !strings.Contains(out, want) || !strings.Contains(out, "and was restarted") {
		t.Errorf("it does not tell that the agent was started anew:\n%s", out)
	}
	if now := agentOf(t, c, "app-0"); now == agent {
		t.Errorf("the agent is process %d still", now)
	}
	c.mustKeep(before)
	c.mustMend(3)
}

// The init of a VM is killed and nothing else: agents answer on the bus and all
// is served, but nobody can log in, and nothing would start the agent again.
func TestInitDiesAlone(t *testing.T) {
	t.Parallel()
	c := busCluster(t)
	c.isolate("none") // in namespaces everything ends with its init
	c.mustApply()
	within(t, 60*time.Second, "all agents are on the bus", func() bool { return c.onTheBus() })
	before := c.mustAllRun(3)
	kill(t, c.initOf("app-0"))
	within(t, 60*time.Second, "status tells", func() bool {
		out, code := c.run("status")
		return code == 0 && strings.Contains(out, "app/0: nothing would start its agent again")
	})
	if r := c.applyJSON(); !r.Changed {
		t.Error("an apply has nothing to do")
	}
	c.initOf("app-0")
	c.mustKeep(before)
	if out, _ := c.run("status"); strings.Contains(out, "nothing would start") {
		t.Errorf("status tells still:\n%s", out)
	}
	cmd := c.command(t.Context(), "ssh")
	cmd.Args = append(cmd.Args, "app/0", "--", "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ssh: %v\n%s", err, out)
	}
	within(t, 60*time.Second, "nothing is to be done, and the fast way is taken again", func() bool {
		r := c.applyJSON()
		return !r.Changed && r.Counts.SSHDials+r.Counts.EngineRuns+r.Counts.StateWrites == 0
	})
}

func TestPreventDestroy(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.edit("instances = 2", "instances = 2\n  prevent_destroy = true")
	c.mustApply()
	before := c.mustAllRun(2)
	out, code := c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "app/0, app/1", "prevent_destroy", "nothing was changed")
	c.edit("instances = 2", "instances = 1")
	c.mustFail(nil, "app/1", "prevent_destroy", "nothing was changed")
	c.mustKeep(before)
	c.edit("prevent_destroy = true", "")
	c.mustMend(1)
}
