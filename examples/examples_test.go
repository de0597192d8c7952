//go:build e2e

// Package examples runs every example with the built programs, as a user would.
package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cluster is an example with a state folder and addresses of its own, so that
// tests run side by side.
type cluster struct {
	t        testing.TB
	manifest string
	state    string
	cidr     string // where its local VMs' addresses are from
	listen   string // where it publishes
	jobs     string // of its own, if any
	as       *user  // who runs deploy; nil: who runs the test
	env      []string
}

// clusters numbers the clusters of a run.
var clusters atomic.Int32

// localBlock is the infrastructure of a manifest, up to its range of addresses
// if it says one.
var localBlock = regexp.MustCompile(`infrastructure "local" \{(\s*cidr\s*=\s*"[^"]*"\s*)?`)

// start prepares a cluster; whatever the test does, nothing of it stays.
func start(t testing.TB, manifest string) *cluster {
	t.Helper()
	if _, err := os.Stat(deployBinary(t)); err != nil {
		t.Fatalf("the built programs are missing, run make build: %v", err)
	}
	n := clusters.Add(1)
	if n > 255 {
		t.Fatal("there are more clusters than address ranges")
	}
	prefix := fmt.Sprintf("127.41.%d.", n)
	source, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := filepath.Abs("jobs")
	if err != nil {
		t.Fatal(err)
	}
	// A copy that the test may edit; the jobs stay where they are.
	manifest = filepath.Join(t.TempDir(), filepath.Base(manifest))
	source = bytes.ReplaceAll(source, []byte(`"./jobs"`), []byte(strconv.Quote(jobs)))
	cidr := prefix + "0/24"
	source = localBlock.ReplaceAll(source, fmt.Appendf(nil, "infrastructure \"local\" {\n  cidr = %q\n", cidr))
	if err := os.WriteFile(manifest, source, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, manifest: manifest, state: filepath.Join(t.TempDir(), "state"), cidr: cidr, listen: prefix + "250:8080"}
	t.Cleanup(func() {
		if out, code := c.run("destroy", "--auto-approve", "--accept-data-loss"); code != 0 {
			t.Errorf("destroy exited with %d:\n%s", code, out)
		}
		c.mustLeaveNothing()
	})
	return c
}

// edit changes the manifest.
func (c *cluster) edit(old, new string) {
	c.t.Helper()
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Contains(source, []byte(old)) {
		c.t.Fatalf("the manifest has no %q", old)
	}
	if err := os.WriteFile(c.manifest, bytes.ReplaceAll(source, []byte(old), []byte(new)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// isolate says how local VMs are kept apart: "auto", "namespaces" or "none".
func (c *cluster) isolate(how string) {
	c.t.Helper()
	c.edit(`infrastructure "local" {`, fmt.Sprintf("infrastructure \"local\" {\n  isolation = %q", how))
}

// setenv gives deploy a variable of its environment, or another value of it.
func (c *cluster) setenv(name, value string) { c.env = append(c.env, name+"="+value) }

func deployBinary(t testing.TB) string {
	path, err := filepath.Abs("../bin/deploy")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// command builds `deploy NAME flags MANIFEST args`.
func (c *cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := []string{name, "--state", c.state, "--var", "listen=" + c.listen}
	var rest []string
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			rest = args[i:]
			break
		}
		all = append(all, a)
	}
	cmd := exec.CommandContext(ctx, deployBinary(c.t), append(append(all, c.manifest), rest...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), c.env...)
	if c.as != nil {
		c.as.run(cmd)
	}
	return cmd
}

// run returns both outputs and the exit code.
func (c *cluster) run(name string, args ...string) (string, int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := c.command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("deploy %s did not run: %v\n%s", name, err, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (c *cluster) mustApply() string {
	c.t.Helper()
	out, code := c.run("apply", "--auto-approve")
	if code != 0 {
		c.t.Fatalf("apply exited with %d:\n%s", code, out)
	}
	return out
}

// result is the last line of `apply --json`.
type result struct {
	Changed bool `json:"changed"`
	Counts  struct {
		EngineRuns  int `json:"engine_runs"`
		SSHDials    int `json:"ssh_dials"`
		StateWrites int `json:"state_writes"`
	} `json:"counts"`
}

func (c *cluster) applyJSON() result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := c.command(ctx, "apply", "--auto-approve", "--json")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("apply --json: %v\n%s%s", err, out.String(), stderr.String())
	}
	var last json.RawMessage
	for dec := json.NewDecoder(&out); ; {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			c.t.Fatalf("apply --json printed something else: %v", err)
		}
		last = raw
	}
	var r result
	if err := json.Unmarshal(last, &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// status is `deploy status --json`: the names that outside checks rely on.
type status struct {
	Deployment string `json:"deployment"`
	Instances  []struct {
		ID         string `json:"id"`
		Group      string `json:"group"`
		Index      int    `json:"index"`
		AZ         string `json:"az"`
		Address    string `json:"address"`
		VM         string `json:"vm"`
		Agent      string `json:"agent"`
		Generation string `json:"generation"`
		State      string `json:"state"`
		Processes  []struct {
			Name     string `json:"name"`
			State    string `json:"state"`
			PID      int    `json:"pid"`
			UptimeS  int64  `json:"uptime_s"`
			Restarts int    `json:"restarts"`
			RSSBytes int64  `json:"rss_bytes"`
			LastExit *struct {
				Status int    `json:"status"`
				Signal string `json:"signal"`
			} `json:"last_exit"`
		} `json:"processes"`
	} `json:"instances"`
}

func (c *cluster) status() status {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.command(ctx, "status", "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("status: %v\n%s", err, stderr.String())
	}
	var s status
	if err := json.Unmarshal(out, &s); err != nil {
		c.t.Fatalf("status --json: %v\n%s", err, out)
	}
	return s
}

// pids are the processes' pids by "instance process".
func (s status) pids() map[string]int {
	out := map[string]int{}
	for _, in := range s.Instances {
		for _, p := range in.Processes {
			out[in.ID+" "+p.Name] = p.PID
		}
	}
	return out
}

func (c *cluster) mustAllRun(n int) status {
	c.t.Helper()
	s := c.status()
	if len(s.Instances) != n {
		c.t.Fatalf("%d instances, want %d", len(s.Instances), n)
	}
	for _, in := range s.Instances {
		if in.State != "running" || in.Agent != "alive" || in.VM != "running" || len(in.Processes) == 0 {
			c.t.Errorf("%s: vm %s, agent %s, state %s, %d processes", in.ID, in.VM, in.Agent, in.State, len(in.Processes))
		}
	}
	return s
}

// within polls a condition until a deadline.
func within(t testing.TB, limit time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < limit {
		if condition() {
			return time.Since(begin)
		}
		<-tick.C
	}
	t.Fatalf("not within %v: %s", limit, what)
	return 0
}

// page fetches a page by Host header from an address.
func page(address, host string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	request.Host = host
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return string(body), err
}

// mustLeaveNothing checks that no process of the cluster runs, no file of it is
// left and its address is free.
func (c *cluster) mustLeaveNothing() {
	c.t.Helper()
	if left := processesUnder(c.state); len(left) > 0 {
		c.t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(c.state); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("the state folder is left: %v", err)
	}
	l, err := net.Listen("tcp", c.listen)
	if err != nil {
		c.t.Errorf("the published address is not free: %v", err)
		return
	}
	_ = l.Close()
}

// processesUnder are the processes whose command line or folder is below a path.
func processesUnder(path string) []string {
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if bytes.Contains(cmdline, []byte(path)) || strings.HasPrefix(cwd, path) {
			out = append(out, fmt.Sprintf("%d %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
		}
	}
	return out
}

// snapshot is every file below a folder with its content.
func snapshot(t *testing.T, root string, skip ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && slices.Contains(skip, e.Name()) {
			return filepath.SkipDir
		}
		if e.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			out[path] = info.ModTime().String() + "\n" + string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}
