package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

// shelf is instances whose data is a text each.
type shelf struct {
	mu   sync.Mutex // guards the rest
	data map[string]string
	fail error         // of Dump
	slow time.Duration // that Dump takes
}

// change changes it while a keeper works.
func (s *shelf) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// text returns an instance's data.
func (s *shelf) text(name string) (data string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, there = s.data[name]
	return data, there
}

func (s *shelf) instances() Instances {
	return Instances{
		Ready: func() error { return nil },
		Names: func() (names []string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for name := range s.data {
				names = append(names, name)
			}
			return names
		},
		Key: func(name string) ([]byte, string, bool) {
			_, there := s.text(name)
			return []byte("key of " + name), "1.0", there
		},
		Size: func(_ context.Context, name string) (int64, error) {
			data, _ := s.text(name)
			return int64(len(data)), nil
		},
		Dump: func(ctx context.Context, name string, to io.Writer) error {
			s.mu.Lock()
			data, slow, fail := s.data[name], s.slow, s.fail
			s.mu.Unlock()
			if _, err := io.WriteString(to, data); err != nil {
				return err
			}
			select {
			case <-time.After(slow):
			case <-ctx.Done():
				return ctx.Err()
			}
			return fail
		},
		Rollback: func(_ context.Context, name string, _ int64, from io.ReadSeeker, loaded func() error) error {
			data, err := io.ReadAll(from)
			if err == nil {
				s.change(func() { s.data[name] = string(data) })
				err = loaded()
			}
			return err
		},
	}
}

func open(t *testing.T, c Config, s *shelf, records string) *Keeper {
	t.Helper()
	k, err := Open(c, "shelf", records, s.instances(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// run runs a keeper until stop, in a bubble of virtual time.
func run(t *testing.T, k *Keeper) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func (k *Keeper) mustList(t *testing.T, instance string) []wire.Snapshot {
	t.Helper()
	list, err := k.List(instance)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestSchedule: in three weeks, snapshots are made every day and the last three stay, whatever
// the node's restarts; those of the owner stay all. One that fails is tried again within
// an hour.
func TestSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: map[string]string{"a": "data"}}
		c := Config{Folder: t.TempDir(), Max: 5, MaxBytes: 1 << 20, TimeLimit: time.Hour, Every: 24 * time.Hour, Keep: 3}
		records := t.TempDir()
		k := open(t, c, s, records)
		stop := run(t, k)
		began := time.Now()
		synctest.Wait() // the schedule's first is made, one at a time
		if _, err := k.Create("a", "mine"); err != nil {
			t.Fatal(err)
		}
		for day := 1; day <= 21; day++ {
			<-time.After(time.Until(began.Add(time.Duration(day) * 24 * time.Hour)))
			synctest.Wait()
			mine, scheduled := 0, []wire.Snapshot{}
			for _, one := range k.mustList(t, "a") {
				if one.By == wire.SnapshotBySchedule {
					scheduled = append(scheduled, one)
				} else {
					mine++
				}
			}
			if mine != 1 || len(scheduled) != min(day, 3) && len(scheduled) != min(day+1, 3) {
				t.Fatalf("on day %d: %d of the owner, %d of the schedule", day, mine, len(scheduled))
			}
			for i := 1; i < len(scheduled); i++ {
				if apart := scheduled[i].Date.Sub(scheduled[i-1].Date); apart < 24*time.Hour || apart > 24*time.Hour+2*time.Minute {
					t.Errorf("on day %d two are %v apart", day, apart)
				}
			}
			if last := scheduled[len(scheduled)-1].Date; time.Since(last) > 24*time.Hour+2*time.Minute {
				t.Errorf("on day %d the last is of %v", day, last)
			}
			if day%7 == 0 {
				stop()
				k = open(t, c, s, records)
				stop = run(t, k)
			}
		}
		before := len(k.mustList(t, "a"))
		s.change(func() { s.fail = errors.New("no") })
		<-time.After(26 * time.Hour)
		s.change(func() { s.fail = nil })
		failed := time.Now()
		<-time.After(time.Hour + 2*time.Minute)
		synctest.Wait()
		list := k.mustList(t, "a")
		if len(list) != before || list[len(list)-1].Date.Before(failed) {
			t.Errorf("after a failure: %+v", list)
		}
		stop()
		files, err := os.ReadDir(filepath.Join(c.Folder, "a"))
		if err != nil || len(files) != 8 {
			t.Errorf("%d files are left: %v", len(files), err)
		}
	})
}

// TestLate: a job that takes longer than it may is ended and leaves nothing; the next
// one, which has waited, begins then. A snapshot that would be too large fails.
func TestLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: map[string]string{"a": "data", "b": "data", "c": "data"}, slow: 10 * time.Minute}
		c := Config{Folder: t.TempDir(), Max: 5, MaxBytes: 1000, TimeLimit: time.Minute, Keep: 1}
		k := open(t, c, s, t.TempDir())
		defer run(t, k)()
		jobs := map[string]string{}
		for _, instance := range []string{"a", "b", "c"} {
			j, err := k.Create(instance, "")
			if err != nil {
				t.Fatal(err)
			}
			jobs[instance] = j.ID
		}
		<-time.After(90 * time.Second)
		synctest.Wait()
		for instance, want := range map[string]string{"a": wire.JobFailed, "b": wire.JobFailed, "c": wire.JobWorking} {
			j, err := k.Job(instance, jobs[instance])
			if err != nil || j.Status != want || want == wire.JobFailed && j.Error.Code != wire.ServiceNodeTimeout || want == wire.JobWorking && j.Done != 4 {
				t.Errorf("the job of %s: %+v, %v", instance, j, err)
			}
			if files, _ := os.ReadDir(filepath.Join(c.Folder, instance)); want == wire.JobFailed && len(files) > 0 {
				t.Errorf("left of %s: %v", instance, files)
			}
		}
		s.change(func() { s.slow, s.data["a"] = 0, strings.Repeat("x", 1001) })
		j, err := k.Create("a", "")
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if j, err = k.Job("a", j.ID); err != nil || j.Status != wire.JobFailed || j.Error.Code != wire.ServiceUnavailable {
			t.Errorf("one that is too large: %+v, %v", j, err)
		}
		if files, _ := os.ReadDir(filepath.Join(c.Folder, "a")); len(files) > 0 {
			t.Errorf("left: %v", files)
		}
	})
}

// TestTampered: a snapshot whose file or label was changed, shortened, lengthened, taken
// away or taken from another instance is not rolled back to, and can be deleted.
func TestTampered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tamper := range map[string]func(data, label string) error{
			"a byte":    func(data, _ string) error { return os.WriteFile(data, []byte("tHe data of a"), 0o600) },
			"shorter":   func(data, _ string) error { return os.Truncate(data, 3) },
			"longer":    func(data, _ string) error { return os.WriteFile(data, []byte("the data of a!"), 0o600) },
			"no file":   func(data, _ string) error { return os.Remove(data) },
			"label":     relabel(func(l *label) { l.Size = 3 }),
			"checksum":  relabel(func(l *label) { l.SHA256 = strings.Repeat("0", 64) }),
			"another's": relabel(func(l *label) { l.Instance = "b"; l.Seal = l.sum([]byte("key of b")) }),
			"no JSON":   func(_, label string) error { return os.WriteFile(label, []byte("{"), 0o600) },
		} {
			s := &shelf{data: map[string]string{"a": "the data of a", "b": "the data of b"}}
			c := Config{Folder: t.TempDir(), Max: 5, MaxBytes: 1000, TimeLimit: time.Minute, Keep: 1}
			k := open(t, c, s, t.TempDir())
			stop := run(t, k)
			do := func(j wire.ServiceJob, err error) wire.ServiceJob {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Second)
				synctest.Wait()
				if j, err = k.Job("a", j.ID); err != nil {
					t.Fatal(err)
				}
				return j
			}
			id := do(k.Create("a", "")).SnapshotID
			file := filepath.Join(c.Folder, "a", id)
			if err := tamper(file+dataEnding, file+labelEnding); err != nil {
				t.Fatal(err)
			}
			s.change(func() { s.data["a"] = "newer" })
			if j := do(k.Rollback("a", id)); j.Status != wire.JobFailed || j.Error == nil || !strings.Contains(j.Error.Description, "nothing was rolled back") || s.data["a"] != "newer" {
				t.Errorf("%s: %+v, or the data was changed", name, j)
			}
			if j := do(k.Delete("a", id)); j.Status != wire.JobCompleted || len(k.mustList(t, "a")) != 0 {
				t.Errorf("%s: deleting: %+v", name, j)
			}
			stop()
		}
	})
}

func relabel(change func(*label)) func(_, file string) error {
	return func(_, file string) error {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var l label
		if err := json.Unmarshal(data, &l); err != nil {
			return err
		}
		change(&l)
		if data, err = json.Marshal(l); err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o600)
	}
}

// TestDue: a scheduled snapshot is due exactly when its time is over since the last one
// that was made, and not more often than each hour if it fails; a clock that is set back
// delays none for longer than from one to the next.
func TestDue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		minutes := func(name string, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Minute
		}
		every, now := minutes("every", 1, 10_000), time.Unix(10_000_000, 0)
		h := history{made: now.Add(-minutes("made", -1000, 20_000)), tried: now.Add(-minutes("tried", -1000, 20_000))}
		over := h.made.After(now) || !now.Before(h.made.Add(every))
		again := h.tried.After(now) || !now.Before(h.tried.Add(min(every, time.Hour)))
		if got := due(now, every, h); got != (over && again) {
			t.Errorf("due is %v", got)
		}
		if due(now, 0, h) {
			t.Error("due without a schedule")
		}
		if !due(now, every, history{}) {
			t.Error("the first is not due")
		}
	})
}

// TestNoSnapshots: without a folder everything is refused, and the reason is told.
func TestNoSnapshots(t *testing.T) {
	t.Parallel()
	s := &shelf{data: map[string]string{"a": "data"}}
	k := open(t, Config{}, s, t.TempDir())
	for _, why := range []string{"snapshots_dir", "a cache"} {
		if _, err := k.Create("a", ""); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want %s", err, why)
		}
		if _, err := k.List("a"); err == nil {
			t.Error("there is a list")
		}
		if err := k.Forget(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		k.TurnOff("it is a cache")
	}
}

// FuzzLabel: no label is accepted but one with the seal of its key.
func FuzzLabel(f *testing.F) {
	key := []byte("key")
	l := label{Snapshot: wire.Snapshot{ID: "1-a", Name: "n", Size: 3, By: wire.SnapshotByUser}, Number: 1, Instance: "a", SHA256: strings.Repeat("a", 64)}
	l.Seal = l.sum(key)
	good, err := json.Marshal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"size":3`), []byte(`"size":4`), 1))
	f.Add([]byte(`{"seal":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseLabel(data, "a", "1-a", key)
		if err == nil && (got.sum(key) != got.Seal || got.ID != "1-a" || got.Instance != "a") {
			t.Errorf("%s: %+v", data, got)
		}
		if _, err := parseLabel(data, "a", "1-a", []byte("another")); err == nil {
			t.Errorf("%s has the seal of another key", data)
		}
	})
}

// FuzzJob: a record that is read is one that can be written and read again.
func FuzzJob(f *testing.F) {
	good, err := json.Marshal(Job{ID: "j1", Instance: "a", Snapshot: "1-a", Kind: Create, Status: wire.JobQueued, Number: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"id":"../x","status":"queued"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parseJob(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := parseJob(again); err != nil || fmt.Sprint(k.ID, k.Instance, k.Status, k.Kind) != fmt.Sprint(j.ID, j.Instance, j.Status, j.Kind) {
			t.Errorf("%+v, %+v, %v", j, k, err)
		}
	})
}
