//go:build e2e

package examples

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// keeperJob notes on its disk when it first began, and each start.
const keeperJob = `
template "run.sh" { on_change = "restart" }
process "main" {
  command = ["/bin/sh", "${path.config}/run.sh"]
}
template "census.sh" { on_change = "none" }
hook "census" { command = ["/bin/sh", "${path.config}/census.sh"] }
`

const keeperScript = `
[ -e ${path.data}/born ] || cat /proc/sys/kernel/random/uuid >${path.data}/born
echo start >>${path.data}/starts
exec sleep 1000
`

// keeperCensus names the guests on the disk.
const keeperCensus = `
n=0
[ -e ${path.data}/guests ] || : >${path.data}/guests
while read -r guest; do
  n=$((n + 1))
  echo "{\"kind\":\"guest\",\"name\":\"$guest\"}"
done <${path.data}/guests
echo "{\"total\":$n}"
`

// keeperFiles are those of a release with the job.
func keeperFiles() map[string]string {
	return map[string]string{
		"jobs/keeper/job.hcl":             keeperJob,
		"jobs/keeper/templates/run.sh":    keeperScript,
		"jobs/keeper/templates/census.sh": keeperCensus,
	}
}

const keepers = `deployment "keepers" { domain = "keepers.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
release "test" { path = JOBS }
vm "small" { memory_mb = 128 }
disk "data" { size_gb = 1 }
update {
  min_healthy_time = "200ms"
  watch_time       = "0s-20s"
}
group "db" {
  instances = 3
  vm        = vm.small
  azs       = ["z1", "z2"]
  disk      = disk.data
  job "keeper" {}
}
`

// keeperCluster is three instances with disks, and when their data began.
type keeperCluster struct {
	*cluster
	vmsDir string
	births []string
	first  string // index and zone of each instance
	group  string // what the group is called, "" for db
}

func startKeepers(t *testing.T) *keeperCluster {
	t.Helper()
	dir := t.TempDir()
	files := keeperFiles()
	files["keepers.hcl"] = strings.ReplaceAll(keepers, "JOBS", strconv.Quote(filepath.Join(dir, "jobs")))
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := &keeperCluster{cluster: start(t, filepath.Join(dir, "keepers.hcl"))}
	k.vmsDir = filepath.Join(k.state, "keepers", "vms")
	k.mustApply()
	k.mustAllRun(3)
	k.births = []string{k.born(0), k.born(1), k.born(2)}
	k.first = k.zones()
	return k
}

func (k *keeperCluster) born(index int) string {
	k.t.Helper()
	data, err := os.ReadFile(filepath.Join(k.vmsDir, "disks", fmt.Sprintf("%s-%d", cmp.Or(k.group, "db"), index), "data", "keeper", "born"))
	if err != nil {
		k.t.Fatal(err)
	}
	return string(data)
}

// invite puts guests onto an instance's disk, whom its census then names.
func (k *keeperCluster) invite(index int, guests string) {
	k.t.Helper()
	file := filepath.Join(k.vmsDir, "disks", fmt.Sprintf("db-%d", index), "data", "keeper", "guests")
	if err := os.WriteFile(file, []byte(guests), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeperCluster) zones() string {
	k.t.Helper()
	var out []string
	for _, in := range k.status().Instances {
		out = append(out, in.ID+" "+in.AZ)
	}
	return strings.Join(out, ", ")
}

// mustStand checks that n instances run with the data that they began with.
func (k *keeperCluster) mustStand(n int) {
	k.t.Helper()
	k.mustAllRun(n)
	for i, was := range k.births[:n] {
		if now := k.born(i); now != was {
			k.t.Errorf("db/%d has lost its data: born %s, now %s", i, was, now)
		}
	}
}

func (k *keeperCluster) mustHaveZones() {
	k.t.Helper()
	if now := k.zones(); now != k.first {
		k.t.Errorf("zones are %s, were %s", now, k.first)
	}
}

// TestDisksOutliveVMs replaces VMs, and removes one that returns.
func TestDisksOutliveVMs(t *testing.T) {
	t.Parallel()
	c := startKeepers(t)
	first := c.vms("keepers")
	c.edit("memory_mb = 128", "memory_mb = 256")
	c.invite(0, "ann\n")
	out := c.mustApply()
	mustTell(t, out, 0, 0, "db/0 recreate", "keeper holds 1 guest: ann; away until it runs again")
	c.mustStand(3)
	replaced := c.vms("keepers")
	for id, v := range first {
		if replaced[id].ID == v.ID || replaced[id].Disk != v.Disk {
			t.Errorf("%s is %+v, was %+v", id, replaced[id], v)
		}
	}

	c.edit("instances = 3", "instances = 2")
	out, code := c.run("plan")
	mustTell(t, out, code, 2, "keeper holds nothing of anybody", "= disk of db/2, 1 GB", "kept; db/2 takes it again when it returns", "1 to delete")
	c.mustApply()
	c.mustStand(2)
	if c.born(2) != c.births[2] {
		t.Error("the disk of db/2 is not what it was")
	}
	// Other zones, and another one is the emptiest: the disk stays where it is.
	c.edit("instances = 2", "instances = 3")
	c.edit(`["z1", "z2"]`, `["z3", "z1", "z2"]`)
	out, code = c.run("plan")
	mustTell(t, out, code, 2, "+ disk of db/2, 1 GB", "db/2 takes it again, with the data on it")
	c.mustApply()
	c.mustStand(3)
	c.mustHaveZones()
	if r := c.applyJSON(); r.Changed {
		t.Errorf("another apply: %+v", r)
	}
	// The group gets another name; its data goes along.
	c.edit(`group "db"`, "moved {\n  from = \"db\"\n  to   = \"store\"\n}\n\ngroup \"store\"")
	c.group = "store"
	out, code = c.run("plan")
	mustTell(t, out, code, 2, "store/0 recreate: VM: group \"db\" -> \"store\"", "3 to recreate")
	c.mustApply()
	c.mustStand(3)
	if r := c.applyJSON(); r.Changed || r.Counts.EngineRuns > 0 {
		t.Errorf("another apply after the move: %+v", r)
	}
	if out, code = c.run("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks"); code != 0 {
		t.Error(out)
	}
}

// TestDisksOutliveTheDeployment destroys a deployment, which keeps its disks
// unless it is told to delete them.
func TestDisksOutliveTheDeployment(t *testing.T) {
	t.Parallel()
	c := startKeepers(t)
	disk := c.vms("keepers")["db/0"].Disk
	// Nobody's guests are taken away without a word, and not when they cannot be counted.
	c.invite(0, "ann\nbob\n")
	out, code := c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "keeper holds 2 guests: ann, bob; which stay on its disk", "cannot take away without approval what lives on db/0 (2)", "--accept-data-loss")
	c.invite(1, `no "guest"`+"\n")
	out, code = c.run("status", "--census")
	mustTell(t, out, code, 0, "  db/0: keeper holds 2 guests: ann, bob", "! db/1: keeper does not say what lives there: line 1 of its census is no thing", "  db/2: keeper holds nothing")
	out, code = c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "WHAT IS THERE MAY BE LOST", "what lives on db/0 (2), db/1 (it is not known what)")
	c.mustStand(3)
	c.invite(1, "")
	out, code = c.run("destroy", "--auto-approve", "--accept-data-loss")
	mustTell(t, out, code, 0, "= disk of db/0, 1 GB", "what is left is the disk of db/0 (1 GB, "+disk+")", "--delete-disks")
	if left := processesUnder(c.state); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(c.vmsDir, "db-0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the VM of db/0 is left: %v", err)
	}
	out, code = c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 0, "nothing to destroy but the disk of db/0")
	c.mustApply()
	c.mustStand(3)
	c.mustHaveZones()

	c.edit("instances = 3", "instances = 1")
	out, code = c.run("apply", "--auto-approve", "--delete-disks")
	mustTell(t, out, code, 0, "- disk of db/1, 1 GB", "DELETED, all data on it is lost")
	c.mustStand(1)
	for _, name := range []string{"db-1", "db-2"} {
		if _, err := os.Stat(filepath.Join(c.vmsDir, "disks", name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the disk %s is left: %v", name, err)
		}
	}
	// At a terminal, yes is not enough for that.
	out, code = c.answer("yes", "destroy", "--delete-disks")
	mustTell(t, out, code, 1, "\x1b[31m- disk of db/0, 1 GB", "\x1b[31mTHE DATA ON 1 PERSISTENT DISK(S) WILL BE LOST", "WHAT LIVES ON 1 INSTANCE(S) WILL BE LOST: db/0 (2)", "Only keepers is accepted")
	c.mustStand(1)
	out, code = c.answer("keepers", "destroy", "--delete-disks")
	mustTell(t, out, code, 0, "Destroyed")
	c.mustLeaveNothing()
}

// answer runs deploy at a terminal and answers its question.
func (c *cluster) answer(line, name string, args ...string) (string, int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.command(ctx, name, args...)
	terminal, err := pty.Start(cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	defer terminal.Close()
	var out strings.Builder
	asked := false
	buffer := make([]byte, 4096)
	for {
		n, err := terminal.Read(buffer)
		out.Write(buffer[:n])
		if !asked && strings.Contains(out.String(), "is accepted:") {
			asked = true
			if _, err := terminal.WriteString(line + "\n"); err != nil {
				c.t.Fatal(err)
			}
		}
		if err != nil {
			break // at the end a terminal reads EIO
		}
	}
	_ = cmd.Wait() // the exit code tells
	return out.String(), cmd.ProcessState.ExitCode()
}
