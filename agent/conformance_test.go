package agent_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

const (
	deployment = "dep-1"
	instance   = "web/0"
	patience   = 90 * time.Second
)

// fixture is one agent and one client of it.
type fixture struct {
	*testing.T
	agent *agenttest.Agent
	bus   *agenttest.Bus // nil where the API goes over the socket
	c     *client.Client
	epoch uint64
	ops   atomic.Int64
}

// overBoth runs a test over each transport, with a configured agent.
func overBoth(t *testing.T, test func(f *fixture)) {
	t.Run("unix", func(t *testing.T) {
		t.Parallel()
		f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
		f.c = f.agent.Client
		f.must(f.configure(nil))
		test(f)
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		test(startOnBus(t))
	})
}

func startOnBus(t *testing.T) *fixture {
	f := &fixture{T: t, agent: agenttest.Start(t), bus: agenttest.StartBus(t, deployment), epoch: 1}
	f.c = f.agent.Client
	f.must(f.configure(f.busSettings()))
	f.c = client.NATS(f.bus.Connect(""), instance)
	return f
}

func (f *fixture) busSettings() *api.Bus {
	f.Helper()
	inventory, err := f.agent.Inventory(f.Context())
	f.must(err)
	return f.bus.Settings(instance, inventory.PublicKey)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) context() context.Context {
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	f.Cleanup(cancel)
	return ctx
}

// submission builds one with a fresh op_id.
func (f *fixture) submission(body any) api.Submission {
	s := api.Submission{Change: api.Change{
		DeploymentID: deployment, Instance: instance, Epoch: f.epoch, OpID: fmt.Sprintf("op-%d", f.ops.Add(1)),
	}}
	switch b := body.(type) {
	case api.Configure:
		s.Kind, s.Configure = api.KindConfigure, &b
	case api.Prepare:
		s.Kind, s.Prepare = api.KindPrepare, &b
	case api.Update:
		s.Kind, s.Update = api.KindUpdate, &b
	case api.Watch:
		s.Kind, s.Watch = api.KindWatch, &b
	case api.Rollback:
		s.Kind, s.Rollback = api.KindRollback, &b
	case api.Stop:
		s.Kind, s.Stop = api.KindStop, &b
	case api.Start:
		s.Kind, s.Start = api.KindStart, &b
	case api.RestartProcesses:
		s.Kind, s.Restart = api.KindRestart, &b
	case api.PostDeploy:
		s.Kind, s.PostDeploy = api.KindPostDeploy, &b
	case api.Errand:
		s.Kind, s.Errand = api.KindErrand, &b
	default:
		f.Fatalf("no operation %T", body)
	}
	return s
}

func (f *fixture) do(body any) error { return f.c.Do(f.context(), f.submission(body), nil) }

func (f *fixture) configure(bus *api.Bus) error {
	return f.do(api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: bus})
}

func (f *fixture) prepare(s api.Spec) error { return f.do(api.Prepare{Spec: s}) }

func (f *fixture) update(generation string) error {
	return f.do(api.Update{Generation: generation, MinHealthyMS: 50, DeadlineMS: patience.Milliseconds(), Next: "update"})
}

func (f *fixture) apply(s api.Spec) {
	f.Helper()
	f.must(f.prepare(s))
	f.must(f.update(s.Generation))
}

func (f *fixture) inventory() api.Inventory {
	f.Helper()
	inventory, err := f.c.Inventory(f.context())
	f.must(err)
	return inventory
}

// pids of the processes that run, by job/name.
func (f *fixture) pids() map[string]int {
	f.Helper()
	pids := make(map[string]int)
	for _, p := range f.inventory().Processes {
		if p.PID != 0 {
			pids[p.Job+"/"+p.Name] = p.PID
		}
	}
	return pids
}

// until polls until the condition holds.
func (f *fixture) until(what string, condition func() bool) {
	f.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			f.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// refused wants an error of that code with these words.
func (f *fixture) refused(err error, code api.Code, words ...string) *api.Error {
	f.Helper()
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Code != code {
		f.Fatalf("got %v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(refused.Error(), w) {
			f.Errorf("%q does not say %q", refused.Error(), w)
		}
	}
	return refused
}

// shell is a process that runs a script.
func shell(name, script, digest string) api.Process {
	return api.Process{Name: name, Command: []string{"/bin/sh", "-c", script}, Digest: digest, ReloadDigest: "r1", StopGrace: 2000}
}

// sleeper says that it is up and stays.
func sleeper(name, digest string) api.Process {
	return shell(name, "echo up "+digest+"; exec sleep 1000", digest)
}

func specOf(generation string, jobs ...api.Job) api.Spec {
	return api.Spec{Generation: generation, Deployment: "cf", Instance: instance, Group: "web", Address: "127.0.0.1", Jobs: jobs}
}

func jobOf(name string, processes ...api.Process) api.Job {
	return api.Job{Name: name, Processes: processes, Files: []api.File{{Path: "etc/config", Mode: 0o640, Content: []byte("x = 1\n")}}}
}

// pack makes an archive with one script.
func pack(t testing.TB, name, script string) (archive []byte, digest string) {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./bin/" + name, Mode: 0o755, Size: int64(len(script))})
	if err == nil {
		_, err = w.Write([]byte(script))
	}
	if err = errors.Join(err, w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(out.Bytes())
	return out.Bytes(), hex.EncodeToString(sum[:])
}

func (f *fixture) withPackage(generation string, archive []byte, digest string) api.Spec {
	job := jobOf("app", api.Process{Name: "main", Command: []string{filepath.Join(f.agent.Dir, "store", digest, "bin", "serve")}, Digest: digest, ReloadDigest: "r1"})
	s := specOf(generation, job)
	s.Packages = []api.Package{{Name: "serve", Digest: digest, Size: int64(len(archive)), Format: api.PackageTarGz}}
	return s
}

func TestInstallRunAndTell(t *testing.T) {
	overBoth(t, func(f *fixture) {
		var events []string
		s := specOf("g1", jobOf("app", sleeper("main", "d1")), jobOf("side", sleeper("one", "d1"), sleeper("two", "d1")))
		f.must(f.prepare(s))
		if inventory := f.inventory(); inventory.Active != "" || inventory.State != api.InstanceStopped ||
			!slices.Equal(inventory.Generations, []api.Generation{{Digest: "g1", State: api.GenerationStaged}}) {
			f.Errorf("after prepare: %+v", inventory)
		}
		update := f.submission(api.Update{Generation: "g1", MinHealthyMS: 50, DeadlineMS: patience.Milliseconds()})
		f.must(f.c.Do(f.context(), update, func(e api.OperationEvent) {
			events = append(events, e.Step)
			if e.Sequence != uint64(len(events)) {
				f.Errorf("event %d has sequence %d", len(events), e.Sequence)
			}
		}))
		if want := []string{"activate", "start", "start", "start", "healthy"}; !slices.Equal(events, want) {
			f.Errorf("events %q, want %q", events, want)
		}
		inventory := f.inventory()
		if inventory.State != api.InstanceRunning || inventory.Active != "g1" || inventory.Interrupted || len(inventory.Processes) != 3 ||
			inventory.HealthySince == nil || inventory.DeploymentID != deployment || inventory.Instance != instance || inventory.VMID != "vm-1" {
			f.Errorf("after update: %+v", inventory)
		}
		got, err := f.c.Spec(f.context(), api.SpecRequest{})
		if err != nil || got.Generation != "g1" || len(got.Jobs) != 2 {
			f.Errorf("spec %+v, %v", got, err)
		}
		_, err = f.c.Spec(f.context(), api.SpecRequest{Generation: "g9"})
		f.refused(err, api.CodeNotFound)
		info, err := os.Stat(filepath.Join(f.agent.Dir, "jobs", "app", "etc", "config"))
		if err != nil || info.Mode() != 0o640 {
			f.Errorf("config: %v, %v", info, err)
		}
		f.must(f.do(api.Watch{MinHealthyMS: 50, DeadlineMS: patience.Milliseconds()}))

		pids := f.pids()
		f.apply(s) // nothing to do
		if again := f.pids(); fmt.Sprint(again) != fmt.Sprint(pids) {
			f.Errorf("pids %v, then %v", pids, again)
		}
		f.must(f.do(api.Stop{Next: "delete"}))
		if inventory := f.inventory(); inventory.State != api.InstanceStopped || len(f.pids()) > 0 {
			f.Errorf("after stop: %+v", inventory)
		}
	})
}

func TestOperationsAreGuarded(t *testing.T) {
	overBoth(t, func(f *fixture) {
		s := f.submission(api.Prepare{Spec: specOf("g1", jobOf("app", sleeper("main", "d1")))})
		f.must(f.c.Do(f.context(), s, nil))
		first, err := f.c.Submit(f.context(), s)
		f.must(err)
		again, err := f.c.Submit(f.context(), s)
		f.must(err)
		if first.State != api.OperationDone || again.Ended == nil || !again.Ended.Equal(*first.Ended) {
			f.Errorf("the same op_id gave %+v, then %+v", first, again)
		}

		_, err = f.c.Wait(f.context(), api.WaitRequest{OpID: "unknown"})
		f.refused(err, api.CodeNotFound)
		for name, edit := range map[string]func(*api.Submission){
			"no body":  func(s *api.Submission) { s.Prepare = nil },
			"two":      func(s *api.Submission) { s.Stop = &api.Stop{} },
			"kind":     func(s *api.Submission) { s.Kind = "dance" },
			"op_id":    func(s *api.Submission) { s.OpID = "../../x" },
			"instance": func(s *api.Submission) { s.Instance = "web" },
		} {
			bad := f.submission(api.Prepare{Spec: specOf("g1")})
			edit(&bad)
			_, err := f.c.Submit(f.context(), bad)
			if refused := (*api.Error)(nil); !errors.As(err, &refused) || refused.Code != api.CodeBadRequest {
				f.Errorf("%s: got %v", name, err)
			}
		}

		other := f.submission(api.Watch{})
		other.DeploymentID = "dep-2"
		_, err = f.c.Submit(f.context(), other)
		f.refused(err, api.CodeOtherDeployment, deployment, "dep-2")
		other = f.submission(api.Configure{Deployment: "theirs"})
		other.Instance = "web/1"
		_, err = f.c.Submit(f.context(), other)
		f.refused(err, api.CodeOtherDeployment)
		// A group that was renamed takes its agents along, and only its own.
		other = f.submission(api.Configure{Deployment: "theirs", Renamed: "web/1"})
		other.Instance = "site/0"
		_, err = f.c.Submit(f.context(), other)
		f.refused(err, api.CodeOtherDeployment)
		other = f.submission(api.Configure{Deployment: "theirs", Renamed: other.Instance})
		other.DeploymentID, other.Instance = "dep-2", "site/0"
		_, err = f.c.Submit(f.context(), other)
		f.refused(err, api.CodeOtherDeployment)

		expect := "g7"
		unexpected := f.submission(api.Update{Generation: "g1"})
		unexpected.Expect = &expect
		_, err = f.c.Submit(f.context(), unexpected)
		f.refused(err, api.CodeConflict, "g7")

		f.refused(f.update("g2"), api.CodeNotFound, "g2")

		f.epoch = 5
		f.must(f.do(api.Watch{DeadlineMS: 1000}))
		f.epoch = 4
		_, err = f.c.Submit(f.context(), f.submission(api.Watch{}))
		f.refused(err, api.CodeStaleEpoch, "4", "5")
		f.agent.Stop()
		f.agent.Run()
		f.until("the agent is back on its transport", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })
		_, err = f.c.Submit(f.context(), f.submission(api.Watch{}))
		f.refused(err, api.CodeStaleEpoch)
		if again, err := f.c.Submit(f.context(), s); err != nil || !again.Ended.Equal(*first.Ended) {
			f.Errorf("after a restart the same op_id gave %+v, %v", again, err)
		}
	})
}

// One operation runs at a time; a deployer that has lost its lease is stopped
// before its next step.
func TestTakeOver(t *testing.T) {
	overBoth(t, func(f *fixture) {
		gate := filepath.Join(f.TempDir(), "gate")
		job := jobOf("app", sleeper("main", "d1"))
		job.Hooks = []api.Hook{{Kind: api.HookPreStart, Command: []string{"/bin/sh", "-c", "until test -e " + gate + "; do sleep 0.05; done"}, TimeoutMS: patience.Milliseconds()}}
		f.must(f.prepare(specOf("g1", job)))
		update := f.submission(api.Update{Generation: "g1", DeadlineMS: patience.Milliseconds()})
		_, err := f.c.Submit(f.context(), update)
		f.must(err)
		var seen uint64
		f.until("the hook runs", func() bool {
			p, err := f.c.Wait(f.context(), api.WaitRequest{OpID: update.OpID, Since: seen, MaxMS: 1000})
			f.must(err)
			for _, e := range p.Events {
				if seen = e.Sequence; e.Step == "pre_start" {
					return true
				}
			}
			return false
		})
		_, err = f.c.Submit(f.context(), f.submission(api.Watch{}))
		f.refused(err, api.CodeConflict, update.OpID)
		if running := f.inventory().Running; running == nil || running.OpID != update.OpID {
			f.Errorf("running %+v", running)
		}
		f.epoch = 2
		_, err = f.c.Submit(f.context(), f.submission(api.Watch{}))
		f.refused(err, api.CodeConflict, update.OpID)
		f.must(os.WriteFile(gate, nil, 0o600))
		f.refused(f.c.Do(f.context(), update, nil), api.CodeStaleEpoch)
		if inventory := f.inventory(); !inventory.Interrupted || len(f.pids()) > 0 {
			f.Errorf("got %+v", inventory)
		}
		f.must(f.update("g1"))
		if f.inventory().Interrupted {
			t.Error("an update that ended well leaves nothing owed")
		}
	})
}

func TestUnconfiguredAgentTakesOnlyConfigure(t *testing.T) {
	t.Parallel()
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	f.refused(f.prepare(specOf("g1")), api.CodeOtherDeployment, "configure")
	f.must(f.configure(nil))
	f.must(f.prepare(specOf("g1")))
}

func TestMissingPackageIsUploaded(t *testing.T) {
	overBoth(t, func(f *fixture) {
		archive, digest := pack(f, "serve", "#!/bin/sh\necho served; exec sleep 1000\n")
		s := f.withPackage("g1", archive, digest)
		missing := f.refused(f.prepare(s), api.CodePackageMissing, "serve")
		if !slices.Equal(missing.Packages, []string{digest}) {
			f.Errorf("missing %q", missing.Packages)
		}
		incoming := filepath.Join(f.agent.Dir, "incoming", digest+".tar.gz")
		for name, wrong := range map[string][]byte{"short": archive[:len(archive)-1], "other": append(slices.Clone(archive[:len(archive)-1]), archive[len(archive)-1]^1)} {
			f.must(os.WriteFile(incoming, wrong, 0o600))
			f.refused(f.prepare(s), api.CodePackageMissing, ", expected ")
			if _, err := os.Stat(incoming); !errors.Is(err, os.ErrNotExist) {
				f.Errorf("%s: a broken upload stays: %v", name, err)
			}
		}
		f.must(os.WriteFile(incoming, archive, 0o600))
		f.apply(s)
		if !slices.Equal(f.inventory().Store, []string{digest}) {
			f.Errorf("store %q", f.inventory().Store)
		}
		f.apply(specOf("g2"))
		f.apply(specOf("g3"))
		if store := f.inventory().Store; len(store) > 0 {
			f.Errorf("a package that nothing needs stays: %q", store)
		}
	})
}

func TestPackageFromBus(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	archive, digest := pack(f, "serve", "#!/bin/sh\necho served; exec sleep 1000\n# "+strings.Repeat("0123456789abcdef", 64<<10)+"\n")
	// Make the archive larger than one chunk of the object store (128 KiB).
	raw := make([]byte, 300<<10)
	for n := range raw {
		raw[n] = byte(n * 7 % 251)
	}
	if f.bus.Publish(append(slices.Clone(archive), raw...)) == digest {
		t.Fatal("digest")
	}
	f.bus.Publish(archive)
	f.apply(f.withPackage("g1", archive, digest))
	if !slices.Equal(f.inventory().Store, []string{digest}) {
		f.Errorf("store %q", f.inventory().Store)
	}
}

func TestProcessThatExitsAtOnceIsExplained(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
		before := f.pids()
		f.must(f.prepare(specOf("g2", jobOf("app", sleeper("main", "d1")), jobOf("bad", shell("main", "echo reading config; echo no such port >&2; exit 7", "d1")))))
		began := time.Now()
		failed := f.refused(f.do(api.Update{Generation: "g2", MinHealthyMS: 5000, DeadlineMS: patience.Milliseconds()}), api.CodeFailed, "bad/main", "status 7")
		if p := failed.Process; p == nil || p.Exit == nil || p.Exit.Status != 7 || !strings.Contains(strings.Join(p.Log, "\n"), "no such port") {
			f.Errorf("got %+v", failed.Process)
		}
		if took := time.Since(began); took > patience/2 {
			f.Errorf("a crash loop was watched for %s", took)
		}
		if inventory := f.inventory(); !inventory.Interrupted || inventory.Active != "g2" || inventory.Previous != "g1" || inventory.State != api.InstanceFailing {
			f.Errorf("after failure: %+v", inventory)
		}
		f.must(f.do(api.Rollback{MinHealthyMS: 50, DeadlineMS: patience.Milliseconds()}))
		inventory := f.inventory()
		if inventory.Interrupted || inventory.Active != "g1" || inventory.State != api.InstanceRunning || fmt.Sprint(f.pids()) != fmt.Sprint(before) {
			f.Errorf("after rollback: %+v", inventory)
		}
	})
}

func TestOnlyWhatChangedIsTouched(t *testing.T) {
	overBoth(t, func(f *fixture) {
		reloads := filepath.Join(f.TempDir(), "reloads")
		reloadable := func(reloadDigest string) api.Process {
			p := shell("reloads", "trap 'echo reloaded >> "+reloads+"' HUP; echo up; while :; do sleep 0.05; done", "d1")
			p.ReloadDigest = reloadDigest
			p.Reload = &api.Reload{Signal: "HUP", Verify: []string{"/bin/sh", "-c", "until test -s " + reloads + "; do sleep 0.05; done"}}
			return p
		}
		stays, changes := sleeper("stays", "d1"), func(d string) api.Process { return sleeper("changes", d) }
		f.apply(specOf("g1", jobOf("app", stays, changes("d1"), reloadable("r1"))))
		first := f.pids()
		f.until("the trap is set", func() bool {
			chunk, err := f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "reloads"})
			return err == nil && strings.Contains(string(chunk.Data), "up")
		})
		f.apply(specOf("g2", jobOf("app", stays, changes("d2"), reloadable("r1"))))
		second := f.pids()
		if second["app/stays"] != first["app/stays"] || second["app/reloads"] != first["app/reloads"] || second["app/changes"] == first["app/changes"] {
			f.Errorf("pids %v, then %v", first, second)
		}
		f.apply(specOf("g3", jobOf("app", stays, changes("d2"), reloadable("r2"))))
		if third := f.pids(); fmt.Sprint(third) != fmt.Sprint(second) {
			f.Errorf("pids %v, then %v", second, third)
		}
		if said, err := os.ReadFile(reloads); err != nil || string(said) != "reloaded\n" {
			f.Errorf("reloads %q, %v", said, err)
		}
		for _, p := range f.inventory().Processes {
			if p.Name == "reloads" && p.ReloadDigest != "r2" {
				f.Errorf("got %+v", p)
			}
		}
	})
}

func TestAddressInUse(t *testing.T) {
	overBoth(t, func(f *fixture) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		f.must(err)
		defer taken.Close()
		job := jobOf("app", sleeper("main", "d1"))
		job.Listens = []api.Listen{{Name: "http", Network: "tcp", Address: taken.Addr().String()}}
		f.refused(f.prepare(specOf("g1", job)), api.CodeFailed, taken.Addr().String(), fmt.Sprintf("process %d", os.Getpid()))
		f.refused(f.update("g1"), api.CodeNotFound)
		f.must(taken.Close())
		f.apply(specOf("g1", job))
	})
}

// The agent may be killed at any moment: its processes go on, what ended
// meanwhile is known, and the operation is reported as interrupted.
func TestAgentIsKilled(t *testing.T) {
	overBoth(t, func(f *fixture) {
		gate := filepath.Join(f.TempDir(), "gate")
		dies := shell("dies", "until test -e "+gate+"; do sleep 0.05; done; rm "+gate+"; exit 7", "d1") // once
		job := jobOf("app", sleeper("main", "d1"), dies)
		f.apply(specOf("g1", job))
		before := f.pids()

		hook := api.Hook{Kind: api.HookPreStart, Command: []string{"/bin/sh", "-c", "exec sleep 30"}, TimeoutMS: patience.Milliseconds()}
		slow := jobOf("slow", sleeper("main", "d1"))
		slow.Hooks = []api.Hook{hook}
		f.must(f.prepare(specOf("g2", job, slow)))
		update := f.submission(api.Update{Generation: "g2", DeadlineMS: patience.Milliseconds()})
		_, err := f.c.Submit(f.context(), update)
		f.must(err)
		f.until("the update runs", func() bool {
			p, err := f.c.Wait(f.context(), api.WaitRequest{OpID: update.OpID, Since: 1, MaxMS: 1000})
			return err == nil && len(p.Events) > 0
		})
		f.agent.Kill()
		f.must(os.WriteFile(gate, nil, 0o600))
		f.until("the process has ended", func() bool { return !alive(before["app/dies"]) })
		f.agent.Run()
		f.until("the agent is back on its transport", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })

		f.refused(f.c.Do(f.context(), update, nil), api.CodeInterrupted)
		p, err := f.c.Wait(f.context(), api.WaitRequest{OpID: update.OpID})
		if err != nil || len(p.Events) < 2 || p.Operation.Sequence != uint64(len(p.Events)) {
			f.Errorf("events of before are lost: %+v, %v", p, err)
		}
		if !f.inventory().Interrupted {
			f.Error("an interrupted update is owed")
		}
		if after := f.pids(); after["app/main"] != before["app/main"] {
			f.Errorf("pids %v, then %v", before, after)
		}
		f.until("the exit is known", func() bool {
			return slices.ContainsFunc(f.inventory().Processes, func(s api.ProcessStatus) bool {
				return s.Name == "dies" && s.LastExit != nil && s.LastExit.Status == 7 && !s.LastExit.Expected
			})
		})
		f.must(f.do(api.Rollback{DeadlineMS: patience.Milliseconds()}))
		if after := f.pids(); after["app/main"] != before["app/main"] || after["app/dies"] == 0 || f.inventory().Interrupted {
			f.Errorf("after rollback: %v, %+v", after, f.inventory())
		}
	})
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestLogIsFollowedThroughRotation(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", jobOf("app", shell("main", "echo one; echo two; echo three; exec sleep 1000", "d1"))))
		f.until("three lines", func() bool {
			chunk, err := f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "main"})
			return err == nil && strings.Count(string(chunk.Data), "\n") == 3
		})
		chunk, err := f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "main", Offset: -1, Lines: 2})
		if err != nil || string(chunk.Data) != "two\nthree\n" {
			f.Fatalf("last lines %q, %v", chunk.Data, err)
		}
		follow := func() string {
			next, err := f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "main", File: chunk.File, Offset: chunk.Next, WaitMS: 5000})
			f.must(err)
			chunk = next
			return string(next.Data)
		}
		name := filepath.Join(f.agent.Dir, "log", "app", "main.log")
		appendTo := func(name, text string) {
			log, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			f.must(err)
			_, err = log.WriteString(text)
			f.must(errors.Join(err, log.Close()))
		}
		appendTo(name, "four\n")
		if got := follow(); got != "four\n" {
			f.Errorf("got %q", got)
		}
		appendTo(name, "five\n")
		f.must(os.Rename(name, name+".1"))
		appendTo(name, "six\n")
		if got := follow() + follow(); got != "five\nsix\n" {
			f.Errorf("got %q", got)
		}
		written := make(chan struct{})
		go func() {
			defer close(written)
			appendTo(name, "seven\n")
		}()
		if got := follow(); got != "seven\n" {
			f.Errorf("got %q", got)
		}
		<-written
		_, err = f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "other"})
		f.refused(err, api.CodeNotFound)
		_, err = f.c.Log(f.context(), api.LogRequest{Job: "..", Process: "main"})
		f.refused(err, api.CodeBadRequest)
	})
}

// The whole way, with the connection cut after the n-th message, for every n:
// each operation happens once.
func TestConnectionCutAfterEveryMessage(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (f *fixture, connect func(*proxy) *client.Client, dial func() (net.Conn, error)){
		"unix": func(t *testing.T) (*fixture, func(*proxy) *client.Client, func() (net.Conn, error)) {
			f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
			f.c = f.agent.Client
			f.must(f.configure(nil))
			return f, func(p *proxy) *client.Client {
				return client.Unix(func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", p.address())
				})
			}, func() (net.Conn, error) { return f.agent.Dial(context.Background()) }
		},
		"nats": func(t *testing.T) (*fixture, func(*proxy) *client.Client, func() (net.Conn, error)) {
			f := startOnBus(t)
			return f, func(p *proxy) *client.Client {
				return client.NATS(f.bus.Connect(p.address(), nats.RetryOnFailedConnect(true)), instance)
			}, func() (net.Conn, error) { return net.Dial("tcp", f.bus.Address) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, connect, dial := start(t)
			for n := 1; ; n++ {
				p := startProxy(t, dial, n)
				f.T = t
				f.c = connect(p)
				f.throughCuts(fmt.Sprintf("g%d", n))
				if !p.close() {
					t.Logf("%d messages", n-1)
					if n < 10 {
						t.Error("hardly anything was cut")
					}
					return
				}
			}
		})
	}
}

func (f *fixture) throughCuts(generation string) {
	f.Helper()
	// A job without a process runs its hook at every update.
	once := jobOf("once")
	once.Hooks = []api.Hook{{Kind: api.HookPreStart, Command: []string{"/bin/echo", "ran for " + generation}, TimeoutMS: patience.Milliseconds()}}
	f.must(f.prepare(specOf(generation, jobOf("app", sleeper("main", "d1")), once)))
	var events []uint64
	update := f.submission(api.Update{Generation: generation, DeadlineMS: patience.Milliseconds()})
	f.must(f.c.Do(f.context(), update, func(e api.OperationEvent) { events = append(events, e.Sequence) }))
	for n, sequence := range events {
		if sequence != uint64(n+1) {
			f.Fatalf("%s: events %v", generation, events)
		}
	}
	f.must(f.do(api.Watch{DeadlineMS: patience.Milliseconds()}))
	f.until("the inventory", func() bool {
		inventory, err := f.c.Inventory(f.context())
		return err == nil && inventory.Active == generation && inventory.State == api.InstanceRunning
	})
	var log string
	var chunk api.LogChunk
	f.until("the log", func() bool {
		next, err := f.c.Log(f.context(), api.LogRequest{Job: "once", Process: "pre_start", File: chunk.File, Offset: chunk.Next})
		if err == nil {
			log += string(next.Data)
			chunk = next
		}
		return strings.Contains(log, "ran for "+generation+"\n")
	})
	if runs := strings.Count(log, "ran for "+generation+"\n"); runs != 1 {
		f.Errorf("%s was activated %d times", generation, runs)
	}
}
