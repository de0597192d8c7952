//go:build e2e

package examples

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// network is a bridge of this machine's with an address for the deployer.
type network struct {
	t      *testing.T
	bridge string
	prefix string // "198.19.7."
	next   int
}

// Networks of one run differ, those of runs side by side most likely.
var (
	networks     atomic.Int32
	firstNetwork = mathrand.Int32N(256)
)

// newNetwork makes a bridge that goes when the test ends, however that ends.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces and must be run by root: sudo make test")
	}
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		if out, err := exec.Command("../.ci/setup.sh", "sshd", "ip").CombinedOutput(); err != nil {
			t.Fatalf("cannot install an SSH server: %v\n%s", err, out)
		}
	}
	// 198.18.0.0/15 is for tests of networks (RFC 2544): nobody routes it.
	number := networks.Add(1)
	n := &network{t: t, bridge: fmt.Sprintf("dh%d-%d", os.Getpid(), number), prefix: fmt.Sprintf("198.19.%d.", (firstNetwork+number)%256)}
	// cat ends with us; cards go with their machines too, but later.
	guard := exec.Command("sh", "-c", `cat; for card in /sys/class/net/"$0".*; do ip link delete "${card##*/}" 2>/dev/null; done; ip link delete "$0"`, n.bridge)
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := guard.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.ip("link", "add", n.bridge, "type", "bridge")
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		alive.Close()
		if err := guard.Wait(); err != nil {
			t.Errorf("cannot delete the bridge: %v", err)
		}
	})
	n.ip("address", "add", n.prefix+"1/24", "dev", n.bridge)
	n.ip("link", "set", n.bridge, "up")
	return n
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// host is a machine on a network: namespaces with Debian's SSH server as their
// first process, this machine's files below a layer of its own.
type host struct {
	t       *testing.T
	address string
	hostKey string // authorized_keys form
	process *exec.Cmd
	log     bytes.Buffer
	before  []string // its files
}

// hostScript is run in the namespaces. $1 is a folder, $2 its files, $3 the
// address; a line on standard input says that the network card is there.
const hostScript = `set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cp -a "$2" "$1/root/etc/deploy-test"
cd "$1/root"
mount -t proc none proc
mount --rbind /dev dev
mount -t tmpfs none tmp
mount -t tmpfs none run
mkdir run/sshd run/upper
mount --bind "$1/upper" run/upper
sed -i 's/^root:[^:]*/root:*/' etc/shadow
sed -i '/^ops:/d' etc/passwd etc/shadow
echo 'ops:x:4242:4242::/home/ops:/bin/sh' >>etc/passwd
echo 'ops:*:19000::::::' >>etc/shadow
mkdir -p home/ops
chown 4242:4242 home/ops
read -r _
ip link set lo up
ip address add "$3/24" dev eth0
ip link set eth0 up
exec chroot . /usr/sbin/sshd -D -e -f /etc/deploy-test/sshd_config
`

const sshdConfig = `HostKey /etc/deploy-test/host_key
AuthorizedKeysFile /etc/deploy-test/authorized_keys
ListenAddress %s:22
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PrintLastLog no
PidFile none
Subsystem sftp /usr/lib/openssh/sftp-server
`

// newKey is an SSH key: PEM and authorized_keys form.
func newKey(t *testing.T) (private []byte, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	sshKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshKey)))
}

func fingerprint(t *testing.T, public string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key)
}

// newHosts starts machines that let the key in. They end with the test, however
// that ends; the calling goroutine must be locked to its thread.
func (n *network) newHosts(count int, authorized string) []*host {
	n.t.Helper()
	var hosts []*host
	for range count {
		hosts = append(hosts, n.newHost(authorized))
	}
	for _, h := range hosts {
		within(n.t, 30*time.Second, "an SSH server at "+h.address, func() bool {
			conn, err := net.DialTimeout("tcp", h.address+":22", time.Second)
			if err != nil {
				return false
			}
			defer conn.Close()
			banner := make([]byte, 7)
			_, err = io.ReadFull(conn, banner)
			return err == nil && string(banner) == "SSH-2.0"
		})
		h.before = h.files()
	}
	return hosts
}

func (n *network) newHost(authorized string) *host {
	n.t.Helper()
	n.next++
	h := &host{t: n.t, address: n.prefix + strconv.Itoa(9+n.next)}
	private, public := newKey(n.t)
	h.hostKey = public
	files := n.t.TempDir()
	for name, data := range map[string]string{
		"host_key": string(private), "authorized_keys": authorized + "\n", "sshd_config": fmt.Sprintf(sshdConfig, h.address),
	} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(data), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	// Any user reads his own keys himself.
	if err := os.Chmod(filepath.Join(files, "authorized_keys"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Chmod(files, 0o755); err != nil {
		n.t.Fatal(err)
	}
	h.process = exec.Command("sh", "-c", hostScript, "sh", n.t.TempDir(), files, h.address)
	h.process.Stdout, h.process.Stderr = &h.log, &h.log
	h.process.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	ready, err := h.process.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := h.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		h.stop()
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", h.address, h.log.String())
		}
	})
	card := fmt.Sprintf("%s.%d", n.bridge, n.next)
	n.ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.process.Process.Pid))
	n.ip("link", "set", card, "master", n.bridge, "up")
	if _, err := io.WriteString(ready, "go\n"); err != nil {
		n.t.Fatal(err)
	}
	return h
}

// stop ends the machine as a power cut does.
func (h *host) stop() {
	if h.process.ProcessState == nil {
		_ = h.process.Process.Kill()
		_ = h.process.Wait() // killed
	}
}

func (h *host) pid() string { return strconv.Itoa(h.process.Process.Pid) }

// files are those that the machine has beside this one's.
func (h *host) files() []string {
	h.t.Helper()
	var files []string
	root := filepath.Join("/proc", h.pid(), "root")
	for _, dir := range []string{"run/upper", "run", "tmp"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if dir == "run" && e.Name() == "upper" {
				return fs.SkipDir
			}
			name := strings.TrimPrefix(path, root)
			if below, ok := strings.CutPrefix(name, "/run/upper/"); ok && e.IsDir() {
				if _, err := os.Stat("/" + below); err == nil {
					return nil // a folder that is there for what changed below it
				}
			}
			switch e.Name() {
			case "wtmp", "btmp", "lastlog": // the SSH server's, when somebody logs in
			default:
				files = append(files, name)
			}
			return nil
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return files
}

// processes are the machine's, by pid here.
func (h *host) processes() map[int]string {
	mine, err := os.Readlink("/proc/" + h.pid() + "/ns/pid")
	if err != nil {
		h.t.Fatal(err)
	}
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		space, err := os.Readlink("/proc/" + e.Name() + "/ns/pid")
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && space == mine && len(cmdline) > 0 {
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// agent is the pid of the machine's agent, 0 if none runs.
func (h *host) agent() int { return h.running(" run --dir ") }

// running is the pid of a process by a part of its command, 0 if there is none.
func (h *host) running(part string) int {
	for pid, command := range h.processes() {
		if strings.Contains(command, part) {
			return pid
		}
	}
	return 0
}

// mustBeClean checks that the machine is as it was: its files, and no process
// but its SSH server.
func (h *host) mustBeClean() {
	h.t.Helper()
	if after := h.files(); !slices.Equal(after, h.before) {
		for _, f := range after {
			if !slices.Contains(h.before, f) {
				h.t.Errorf("%s: left behind: %s", h.address, f)
			}
		}
		if !h.t.Failed() {
			h.t.Errorf("%s: files are missing: %v, were %v", h.address, after, h.before)
		}
	}
	var left map[int]string
	within(h.t, 30*time.Second, "only the SSH server runs at "+h.address, func() bool { // sessions end a moment later
		left = h.processes()
		return len(left) == 1
	})
}

// A cluster on real machines, as far as one machine can have several: nothing
// but an SSH server is on them. systemd does not run there; the agent's keeper
// does (systemd's way is tested in agent/internal/boot).
func TestHosts(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // the machines end with the thread that started them
	private, public := newKey(t)
	keyFile := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(keyFile, private, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t)
	hosts := map[string]*host{}
	ids := []string{"nats/0", "router/0", "hello/0", "hello/1"}
	for i, h := range n.newHosts(len(ids), public) {
		hosts[ids[i]] = h
	}
	if out, err := exec.Command(deployBinary(t), "validate", "hosts.hcl").CombinedOutput(); err != nil {
		t.Fatalf("the example is not valid: %v\n%s", err, out)
	}

	c := start(t, "hosts.hcl")
	source, err := os.ReadFile("hosts.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(source), "\n") { // the example's host keys, in the order of ids
		if _, key, ok := strings.Cut(line, `host_key`); ok {
			key = strings.Split(key, `"`)[1]
			c.edit(key, hosts[ids[0]].hostKey)
			ids = append(ids[1:], ids[0])
		}
	}
	for address, id := range map[string]string{"192.0.2.10": "nats/0", "192.0.2.20": "router/0", "192.0.2.30": "hello/0", "192.0.2.31": "hello/1"} {
		c.edit(strconv.Quote(address), strconv.Quote(hosts[id].address))
	}
	c.edit(strconv.Quote("~/.ssh/id_ed25519"), strconv.Quote(keyFile))
	c.edit("deployment \"web\"", "variable \"listen\" { default = \"\" }\nupdate { min_healthy_time = \"300ms\" }\ndeployment \"web\"")

	// Each machine has a trouble of its own, and each is told.
	_, otherKey := newKey(t)
	stranger, strangerKey := newKey(t)
	strangerFile := filepath.Join(t.TempDir(), "stranger")
	if err := os.WriteFile(strangerFile, stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	c.edit(hosts["router/0"].hostKey, otherKey)
	c.edit(strconv.Quote(hosts["hello/0"].address), fmt.Sprintf("%q, ssh_port = 2299", hosts["hello/0"].address))
	c.edit(`= "ops"`, fmt.Sprintf(`= "ops", private_key = %q`, strangerFile))
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1,
		"root@"+hosts["router/0"].address, fingerprint(t, otherKey), fingerprint(t, hosts["router/0"].hostKey), // wrong host key
		hosts["hello/0"].address+":2299", "connection refused",
		"ops@"+hosts["hello/1"].address, "refused the key "+fingerprint(t, strangerKey),
	)
	if err := os.WriteFile(c.manifest, right, 0o600); err != nil {
		t.Fatal(err)
	}

	out = c.mustApply()
	if want := "/home/ops/deploy/bin/agent keep --dir /home/ops/deploy"; !strings.Contains(out, "will not start when this machine boots") || !strings.Contains(out, want) {
		t.Errorf("it does not tell what a boot needs (%s):\n%s", want, out)
	}
	before := c.mustAllRun(4)
	router := hosts["router/0"].address + ":8081"
	greets := func() bool {
		body, err := page(router, "hello.web.example")
		return err == nil && strings.Contains(body, "Hello from hello/")
	}
	within(t, 30*time.Second, "a page through the router", greets)
	if r := c.applyJSON(); r.Changed || r.Counts.EngineRuns+r.Counts.SSHDials+r.Counts.StateWrites > 0 {
		t.Errorf("the second apply did something: %+v", r)
	}

	// The keeper starts a killed agent again, and the processes run on.
	agent := hosts["router/0"].agent()
	kill(t, agent)
	within(t, 30*time.Second, "another agent", func() bool { now := hosts["router/0"].agent(); return now != 0 && now != agent })
	within(t, 30*time.Second, "the agent answers", func() bool {
		for _, i := range c.status().Instances {
			if i.ID == "router/0" {
				return i.Agent == "alive"
			}
		}
		return false
	})
	for name, pid := range c.mustAllRun(4).pids() {
		if before.pids()[name] != pid {
			t.Errorf("%s has pid %d, had %d", name, pid, before.pids()[name])
		}
	}

	// The keeper is killed and its agent goes on: another apply, which has nothing
	// else to do, brings a keeper back.
	keeper := hosts["router/0"].running(" keep --dir ")
	kill(t, keeper)
	within(t, 30*time.Second, "status tells that the keeper has ended", func() bool {
		out, code := c.run("status")
		return code == 0 && strings.Contains(out, "router/0: nothing would start its agent again")
	})
	c.mustApply()
	if now := hosts["router/0"].running(" keep --dir "); now == 0 || now == keeper {
		t.Errorf("the keeper is process %d, was %d", now, keeper)
	}
	out, code = c.run("plan")
	mustTell(t, out, code, 0, "nothing to do")
	for name, pid := range c.mustAllRun(4).pids() {
		if before.pids()[name] != pid {
			t.Errorf("%s has pid %d, had %d", name, pid, before.pids()[name])
		}
	}

	// An instance leaves its machine, which is then as before.
	c.edit("instances = 2", "instances = 1")
	c.mustApply()
	c.mustAllRun(3)
	hosts["hello/1"].mustBeClean()

	if out, code := c.run("destroy", "--auto-approve"); code != 0 {
		t.Fatalf("destroy exited with %d:\n%s", code, out)
	}
	for _, h := range hosts {
		h.mustBeClean()
	}
}

// A machine that is lost does not hold its cluster up: another one takes its
// place. It is only not forgotten by chance.
func TestLostMachines(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread()
	private, public := newKey(t)
	n := newNetwork(t)
	hosts := n.newHosts(3, public)
	onHosts := func(instances int) *cluster {
		c := shellCluster(t, instances, waits)
		if err := os.WriteFile(filepath.Join(filepath.Dir(c.manifest), "id"), private, 0o600); err != nil {
			t.Fatal(err)
		}
		c.edit(fmt.Sprintf("infrastructure \"local\" {\n  cidr = %q\n}", c.cidr), fmt.Sprintf(`infrastructure "hosts" {
  private_key = "id" # beside the manifest
  instances = {
    "app/0" = { address = %q }
    "app/1" = { address = %q }
  }
}`, hosts[0].address, hosts[1].address))
		return c
	}
	c := onHosts(2)
	out := c.mustApply()
	for _, h := range hosts[:2] { // it is not in the manifest, so it is pinned
		if want := "trusting host key " + h.hostKey + " at first contact"; !strings.Contains(out, want) {
			t.Errorf("it does not tell %q:\n%s", want, out)
		}
	}
	before := c.mustAllRun(2).pids()

	// Another deployment can have none of them, nor take them down with it.
	other := onHosts(1)
	out, code := other.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "another deployment", "agent uninstall")
	out, code = other.run("destroy", "--auto-approve")
	mustTell(t, out, code, 0, "left as it is", "another deployment")
	if now := c.mustAllRun(2).pids(); !maps.Equal(now, before) {
		t.Errorf("another deployment changed what runs: %v, was %v", now, before)
	}

	hosts[1].stop()
	c.edit(hosts[1].address, hosts[2].address)
	out = c.mustApply()
	mustTell(t, out, 0, 0, "cannot be reached and is left as it is", hosts[1].address)
	after := c.mustAllRun(2).pids()
	if after["app/0 script/main"] != before["app/0 script/main"] {
		t.Errorf("the other instance was touched: %v, were %v", after, before)
	}

	hosts[2].stop()
	out, code = c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "cannot remove the agent from the machine of app/1", hosts[2].address, "--forget-unreachable")
	hosts[0].mustBeClean()
	out, code = c.run("destroy", "--auto-approve", "--forget-unreachable")
	mustTell(t, out, code, 0, "is left as it is", hosts[2].address)
}
