package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roles hold what the test binary does when a test runs it again: with the name
// of one and a folder.
var roles = map[string]func(Store) error{
	// A run that writes as fast as it can, until it is refused.
	"write": func(s Store) error {
		st, secrets, err := s.Load()
		if err != nil {
			return err
		}
		if err := s.Begin(st, secrets, st.Epoch+1); err != nil {
			return err
		}
		fmt.Println("ready")
		for n := 0; ; n++ {
			st.Bus = []string{fmt.Sprint("from an earlier run, ", n)}
			secrets.OldCA = st.Bus[0]
			if _, err := s.Save(st, secrets); errors.Is(err, ErrSuperseded) {
				return nil
			} else if err != nil {
				return err
			}
		}
	},
	// A run that holds the lock until its input ends.
	"lock": func(s Store) error {
		lock, err := s.Lock(context.Background(), LockOptions{})
		if err != nil {
			return err
		}
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
		return errors.Join(err, lock.Unlock())
	},
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		if role, ok := roles[os.Args[1]]; ok {
			if err := role(Store{Dir: os.Args[2]}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// process runs a role and returns when it is ready.
func process(t *testing.T, role string, s Store) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], role, s.Dir)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test has not waited for it
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%s said %q: %v", role, line, err)
	}
	return cmd, in
}

func suspend(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	poll(t, "the process stops", func() bool { return describe(cmd.Process.Pid).Suspended })
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// A run that is suspended at any moment, also in the middle of a write, and
// superseded writes nothing when it goes on.
func TestSupersededRunWritesNothing(t *testing.T) {
	store := Store{Dir: filepath.Join(t.TempDir(), "cf")}
	if _, err := store.Save(New("cf"), &Secrets{}); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		earlier, _ := process(t, "write", store)
		for range rand.IntN(4) { // the run writes without a pause, so this is somewhere in its work
			before, err := os.Stat(filepath.Join(store.Dir, "state.json"))
			if err != nil {
				t.Fatal(err)
			}
			poll(t, "the run writes", func() bool {
				now, err := os.Stat(filepath.Join(store.Dir, "state.json"))
				return err == nil && !os.SameFile(before, now)
			})
		}
		suspend(t, earlier)
		st, secrets, err := store.Load()
		if err != nil {
			t.Fatal(err)
		}
		st.Bus, secrets.OldCA = []string{"from the later run"}, "from the later run"
		if err := store.Begin(st, secrets, st.Epoch+1); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := earlier.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := earlier.Wait(); err != nil {
			t.Fatalf("round %d: the earlier run was not told that it is superseded: %v", round, err)
		}
		now, nowSecrets, err := store.Load()
		if err != nil {
			t.Fatal(err)
		}
		if now.Epoch != st.Epoch || now.Bus[0] != "from the later run" || nowSecrets.OldCA != "from the later run" {
			t.Fatalf("round %d: the earlier run wrote over the later one: epoch %d, %v, %s", round, now.Epoch, now.Bus, nowSecrets.OldCA)
		}
		if _, err := store.Save(st, secrets); err != nil {
			t.Fatalf("round %d: the later run is refused: %v", round, err)
		}
		left, err := filepath.Glob(filepath.Join(store.Dir, ".s*"))
		if err != nil || len(left) > 0 {
			t.Errorf("round %d: left behind: %v %v", round, left, err)
		}
	}
}

func TestBeginIsCompareAndSet(t *testing.T) {
	store := Store{Dir: filepath.Join(t.TempDir(), "cf")}
	first, second := New("cf"), New("cf") // two first runs that know nothing of each other
	secrets := &Secrets{}
	if err := store.Begin(first, secrets, 1); err != nil {
		t.Fatal(err)
	}
	if err := store.Begin(second, &Secrets{}, 1); !errors.Is(err, ErrSuperseded) {
		t.Errorf("second first run: got %v, want ErrSuperseded", err)
	}
	if _, err := store.Save(second, &Secrets{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a run without a lease saved: %v", err)
	}
	if err := store.Begin(first, secrets, 1); err == nil {
		t.Error("began an epoch again")
	}
	stale := first.Clone()
	if err := store.Begin(first, secrets, 2); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(first); err != nil {
		t.Error(err)
	}
	if err := store.Check(stale); !errors.Is(err, ErrSuperseded) {
		t.Errorf("check of the earlier run: %v", err)
	}
	// Nothing to write is refused as well: it goes on to act otherwise.
	if _, err := store.Save(stale, &Secrets{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("save of the earlier run: %v", err)
	}
	if err := store.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Save(first, &Secrets{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("saved after the deployment was destroyed: %v", err)
	}
	if _, err := os.Stat(store.Dir); !os.IsNotExist(err) {
		t.Errorf("made the folder again: %v", err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	store := Store{Dir: filepath.Join(t.TempDir(), "cf")}
	holder, in := process(t, "lock", store)
	_, err := store.Lock(context.Background(), LockOptions{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", holder.Process.Pid)) {
		t.Errorf("got %v, want ErrLocked and process %d", err, holder.Process.Pid)
	}
	// Waiting for it says whom it waits for, once, and ends with its context or
	// when the lock is free.
	var told []Holder
	ctx, cancel := context.WithCancelCause(context.Background())
	_, err = store.Lock(ctx, LockOptions{Wait: time.Hour, Told: func(h Holder, taken bool) {
		told = append(told, h)
		cancel(errors.New("enough"))
	}})
	if !errors.Is(err, ErrLocked) || len(told) != 1 || told[0].PID != holder.Process.Pid {
		t.Errorf("waited for %v: %v", told, err)
	}
	in.Close()
	lock, err := store.Lock(context.Background(), LockOptions{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Wait(); err != nil {
		t.Error(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestLockIsTakenOver(t *testing.T) {
	for _, test := range []struct {
		name    string
		options LockOptions
		suspend bool
	}{
		{"from a suspended holder", LockOptions{}, true},
		{"on request", LockOptions{Takeover: true}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := Store{Dir: filepath.Join(t.TempDir(), "cf")}
			holder, in := process(t, "lock", store)
			if test.suspend {
				suspend(t, holder)
			}
			var from Holder
			test.options.Told = func(h Holder, taken bool) {
				if taken {
					from = h
				}
			}
			lock, err := store.Lock(context.Background(), test.options)
			if err != nil {
				t.Fatal(err)
			}
			if from.PID != holder.Process.Pid || from.Suspended != test.suspend {
				t.Errorf("told of %v", from)
			}
			if err := holder.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			in.Close()
			if err := holder.Wait(); err != nil {
				t.Error(err)
			}
			// Its end gives nobody our lock.
			if _, err := store.Lock(context.Background(), LockOptions{}); !errors.Is(err, ErrLocked) {
				t.Errorf("the lock is free: %v", err)
			}
			if err := lock.Unlock(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	store := Store{Dir: t.TempDir()}
	if got, err := store.History(); err != nil || got != nil {
		t.Errorf("without a journal: %v, %v", got, err)
	}
	want := Entry{At: time.Now().UTC(), Epoch: 3, What: "apply", Who: "ops", Result: "done", Revision: 2, Took: time.Second}
	if err := store.Journal(want); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(store.journalFile(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"at":"2026-` + "\n"); err != nil { // ended in mid-write
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Journal(want); err != nil {
		t.Fatal(err)
	}
	got, err := store.History()
	if err != nil || len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("got %+v, %v", got, err)
	}
}
