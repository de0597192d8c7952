//go:build e2e && ansible

package examples

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// ansibleHosts is the number of machines that both deploy to.
const ansibleHosts = 30

// playbook does with Ansible what the manifest of TestBesideAnsible says: a
// program of 15 MB, two files made from templates, and a process that restarts
// when one of them changes. Facts are not gathered, since nothing needs them.
const playbook = `- hosts: all
  gather_facts: false
  serial: "{{ batch }}"
  any_errors_fatal: true
  tasks:
    - file: { path: /opt/app, state: directory }
    - copy: { src: big, dest: /opt/app/big, mode: "0755" }
      notify: restart
    - template: { src: script.sh.j2, dest: /opt/app/script.sh }
      notify: restart
    - template: { src: app.conf.j2, dest: /opt/app/app.conf }
      notify: restart
    - meta: flush_handlers
    - command: sh -c 'kill -0 $(cat /opt/app/pid)'
      changed_when: false
  handlers:
    - name: restart
      shell: |
        if [ -e /opt/app/pid ]; then kill $(cat /opt/app/pid) || true; fi
        setsid sh /opt/app/script.sh </dev/null >/opt/app/log 2>&1 &
        echo $! >/opt/app/pid
`

// What experienced people set: connections are kept and shared, modules go
// through them without a file of their own, all machines side by side.
const ansibleConfig = `[defaults]
forks = 30
gathering = explicit
interpreter_python = /usr/bin/python3
host_key_checking = true
retry_files_enabled = false
deprecation_warnings = false
remote_user = root
[ssh_connection]
pipelining = true
ssh_args = -o ControlMaster=auto -o ControlPersist=300s -o UserKnownHostsFile=%s
control_path_dir = %s
`

// TestBesideAnsible deploys the same to the same 30 machines with deploy and with
// Ansible, and prints how long both took. It is no part of CI: make bench-ansible.
func TestBesideAnsible(t *testing.T) {
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		t.Fatalf("%v: install Debian's ansible-core", err)
	}
	runtime.LockOSThread() // the machines end with the thread that started them
	private, public := newKey(t)
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := write("id", string(private), 0o600)
	hosts := newNetwork(t).newHosts(ansibleHosts, public)
	machines, inventory, known := "", "", ""
	for i, h := range hosts {
		machines += fmt.Sprintf("    \"app/%d\" = { address = %q, host_key = %q }\n", i, h.address, h.hostKey)
		inventory += fmt.Sprintf("%s ansible_ssh_private_key_file=%s number=%d\n", h.address, key, i)
		known += h.address + " " + h.hostKey + "\n"
	}

	// deploy: the job of the tests, with a second file.
	c := shellCluster(t, ansibleHosts, waits)
	c.privatePackages(15<<20, nil)
	c.job(bigPackage + `
property "number" { type = number }
property "setting" { type = string }
template "app.conf" {}
`)
	conf := "number = ${property.number}\nsetting = ${property.setting}\n"
	if err := os.WriteFile(filepath.Join(c.jobs, "script", "templates", "app.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c.edit(fmt.Sprintf("infrastructure \"local\" {\n  cidr = %q\n}", c.cidr), fmt.Sprintf("infrastructure \"hosts\" {\n  private_key = %q\n  instances = {\n%s  }\n}", key, machines))
	c.edit("properties { script = var.script }", "properties {\n      script  = var.script\n      number  = instance.index\n      setting = var.setting\n    }")
	c.edit(`variable "listen"`, "variable \"setting\" { default = \"a\" }\nvariable \"batch\" { default = 1 }\nvariable \"listen\"")
	c.edit("update {", "update {\n  canaries = 0\n  max_in_flight = var.batch")

	// Ansible.
	program := make([]byte, 15<<20)
	rand.Read(program)
	write("big", string(program), 0o755)
	write("script.sh.j2", "exec sleep 1000\n", 0o644)
	write("app.conf.j2", "number = {{ number }}\nsetting = {{ setting }}\n", 0o644)
	write("hosts", inventory, 0o644)
	write("play.yml", playbook, 0o644)
	control, err := os.MkdirTemp("", "cp") // short: a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range hosts {
			_ = exec.Command("ssh", "-o", "ControlPath="+control+"/%C", "-O", "exit", "root@"+h.address).Run() // it may be gone
		}
		_ = os.RemoveAll(control)
	})
	write("ansible.cfg", fmt.Sprintf(ansibleConfig, write("known_hosts", known, 0o600), control), 0o644)

	timed := func(who string, run func() (string, error)) time.Duration {
		begin := time.Now()
		if out, err := run(); err != nil {
			t.Fatalf("%s: %v\n%s", who, err, out)
		}
		return time.Since(begin)
	}
	byDeploy := func(setting string, batch int) func() (string, error) {
		return func() (string, error) {
			out, code := c.run("apply", "--auto-approve", "--var=setting="+setting, fmt.Sprintf("--var=batch=%d", batch))
			if code != 0 {
				return out, fmt.Errorf("exit code %d", code)
			}
			return out, nil
		}
	}
	byAnsible := func(setting string, batch int) func() (string, error) {
		return func() (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "ansible-playbook", "-i", "hosts", "play.yml", "-e", "setting="+setting, "-e", fmt.Sprintf("batch=%d", batch))
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "ANSIBLE_CONFIG="+filepath.Join(dir, "ansible.cfg"))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			return out.String(), err
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-32s %9s %9s %7s\n", fmt.Sprintf("%d machines", ansibleHosts), "deploy", "Ansible", "ratio")
	for _, step := range []struct {
		what    string
		setting string
		batch   int
	}{
		{"first run", "a", 30},
		{"nothing to do", "a", 30},
		{"one line changed, batches of 1", "b", 1},
		{"one line changed, batches of 5", "c", 5},
	} {
		ours := timed("deploy, "+step.what, byDeploy(step.setting, step.batch))
		theirs := timed("Ansible, "+step.what, byAnsible(step.setting, step.batch))
		fmt.Fprintf(&table, "%-32s %7.1f s %7.1f s %7.1f\n", step.what, ours.Seconds(), theirs.Seconds(), theirs.Seconds()/ours.Seconds())
		for i, h := range hosts {
			for _, path := range []string{"/opt/app/app.conf", "/var/lib/deploy/jobs/script/app.conf"} {
				want := fmt.Sprintf("number = %d\nsetting = %s\n", i, step.setting)
				if got := mustRead(t, "/proc/"+h.pid()+"/root"+path); string(got) != want {
					t.Fatalf("%s on %s is %q, want %q", path, h.address, got, want)
				}
			}
		}
	}
	t.Logf("\n%s", table.String())
}
