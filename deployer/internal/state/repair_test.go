package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever was done to one of the two files, the newest copy of this deployment puts
// it back, and what was there is set aside.
func TestRepairPutsBackFromTheCopies(t *testing.T) {
	other := written(t, nil, nil)
	half := func(data []byte) []byte { return data[:len(data)/2] }
	for _, encrypted := range []bool{false, true} {
		for _, file := range []string{"state.json", "secrets.json"} {
			foreign, err := os.ReadFile(filepath.Join(other.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for what, change := range map[string]func([]byte) []byte{
				"removed": nil, "emptied": func([]byte) []byte { return nil }, "halved": half, "foreign": func([]byte) []byte { return foreign },
			} {
				t.Run(fmt.Sprintf("%s %s, encrypted %v", file, what, encrypted), func(t *testing.T) {
					s := written(t, nil, nil)
					if encrypted {
						identity, recipient := newIdentity(t)
						s = written(t, &Keys{IdentityFile: identity}, &Encryption{Recipients: []string{recipient}})
					}
					st, secrets, err := s.Load()
					if err != nil {
						t.Fatal(err)
					}
					for n := range 2 { // the older one is not the one that is taken
						secrets.Values["a"]["value"] = fmt.Sprint("version ", n)
						if err := s.Begin(st, secrets, st.Epoch+1); err != nil {
							t.Fatal(err)
						}
						if err := KeepCopy(s, st, time.Now()); err != nil {
							t.Fatal(err)
						}
					}
					path := filepath.Join(s.Dir, file)
					whole, err := os.ReadFile(path)
					if err == nil && change != nil {
						err = os.WriteFile(path, change(whole), 0o600)
					} else if err == nil {
						err = os.Remove(path)
					}
					if err != nil {
						t.Fatal(err)
					}
					damaged, _ := os.ReadFile(path)
					if found, _ := Examine(s); len(found) == 0 || !found[0].Grave {
						t.Errorf("the check finds nothing: %+v", found)
					}
					done, _, err := Repair(s, time.Now())
					if err != nil {
						t.Fatal(err)
					}
					if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole) {
						t.Errorf("%s is not what it was: %v", file, err)
					}
					if len(done) != 1 || done[0].File != file || (done[0].Aside == "") != (change == nil) {
						t.Fatalf("done: %+v", done)
					}
					if change != nil {
						if aside, err := os.ReadFile(done[0].Aside); err != nil || !bytes.Equal(aside, damaged) {
							t.Errorf("what was there is lost: %v", err)
						}
					}
					if _, now, err := s.Load(); err != nil || now.Values["a"]["value"] != "version 1" {
						t.Errorf("%+v, %v", now, err)
					}
					if found, _ := Examine(s); len(found) > 0 {
						t.Errorf("after the repair: %+v", found)
					}
					if again, _, err := Repair(s, time.Now()); err != nil || len(again) > 0 {
						t.Errorf("a whole folder was repaired: %+v, %v", again, err)
					}
				})
			}
		}
	}
}

// Without a copy nothing is made up: keys are nowhere else, and of two deployments
// none is chosen.
func TestRepairInventsNothing(t *testing.T) {
	s, other := written(t, nil, nil), written(t, nil, nil)
	foreign, err := os.ReadFile(other.secretsFile())
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{"emptied": nil, "foreign": foreign} {
		if err := os.WriteFile(s.secretsFile(), text, 0o600); err != nil {
			t.Fatal(err)
		}
		before := contents(t, s.Dir)
		done, _, err := Repair(s, time.Now())
		if err == nil || len(done) > 0 {
			t.Errorf("%s: %+v, %v", what, done, err)
		}
		if now := contents(t, s.Dir); len(now) != len(before) {
			t.Errorf("%s: something was written: %v", what, now)
		}
	}
	if err := os.WriteFile(s.secretsFile(), []byte(`{"deployment_id":"ab"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.stateFile()); err != nil {
		t.Fatal(err)
	}
	if _, id, err := Repair(s, time.Now()); !errors.Is(err, ErrNoCopy) || id != "ab" {
		t.Errorf("got %q, %v", id, err)
	}
}

// A few copies are kept, for their owner only, and none whose secrets are plain once
// the state is encrypted. An import takes one.
func TestCopiesAreFewAndPrivate(t *testing.T) {
	identity, recipient := newIdentity(t)
	s := written(t, &Keys{IdentityFile: identity}, nil)
	st, secrets, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	copyIt := func() {
		t.Helper()
		if err := s.Begin(st, secrets, st.Epoch+1); err != nil {
			t.Fatal(err)
		}
		// The clock goes back: the order is that in which they were made.
		if err := KeepCopy(s, st, time.Unix(2_000_000_000-int64(st.Epoch)*1000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for range KeptCopies + 3 {
		copyIt()
	}
	copies, err := Copies(s)
	if err != nil || len(copies) != KeptCopies {
		t.Fatalf("%d copies, %v", len(copies), err)
	}
	for i, c := range copies {
		info, err := os.Stat(c.Path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", c.Path, info.Mode(), err)
		}
		if c.Epoch != st.Epoch-uint64(i) || !strings.HasPrefix(st.DeploymentID, c.Deployment) {
			t.Errorf("copy %d is of epoch %d of %s", i, c.Epoch, c.Deployment)
		}
	}
	data, err := os.ReadFile(copies[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Import(bytes.NewReader(data), "cf", false); err != nil || again.Epoch != st.Epoch {
		t.Errorf("import of a copy: %+v, %v", again, err)
	}

	secrets.Encryption = &Encryption{Recipients: []string{recipient}}
	copyIt()
	copies, err = Copies(s)
	if err != nil || len(copies) != 1 {
		t.Fatalf("%d copies after the encryption, %v", len(copies), err)
	}
	if _, files, err := copies[0].Files(s); err != nil || !Encrypted(files["secrets.json"]) {
		t.Errorf("the copy is not encrypted: %v", err)
	}
	// A run that another one has superseded keeps none.
	stale := st.Clone()
	if err := s.Begin(st, secrets, st.Epoch+1); err != nil {
		t.Fatal(err)
	}
	if err := KeepCopy(s, stale, time.Now()); !errors.Is(err, ErrSuperseded) {
		t.Errorf("got %v", err)
	}
}

// The check reads every kind of file.
func TestExamineReadsEverything(t *testing.T) {
	s := written(t, nil, nil)
	st, secrets, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	const digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc"
	st.Revisions = []Revision{{Number: 1, Packages: []string{digest}}}
	if err := s.KeepSources(1, map[string][]byte{"a": []byte("b")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Packages(), digest+".tar.gz"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(st, secrets, 2); err != nil {
		t.Fatal(err)
	}
	if err := KeepCopy(s, st, time.Now()); err != nil {
		t.Fatal(err)
	}
	if found, read := Examine(s); len(found) > 0 || read != 7 {
		t.Fatalf("of a whole folder: %+v, %d read", found, read)
	}
	copies, err := Copies(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"journal.jsonl", "terraform/applied.json", "revisions/1.tar.gz", "packages/" + digest + ".tar.gz", "copies/" + filepath.Base(copies[0].Path)} {
		path := filepath.Join(s.Dir, file)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if found, _ := Examine(s); len(found) != 1 || found[0].File != file {
			t.Errorf("%s halved: %+v", file, found)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.secretsFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	if found, _ := Examine(s); len(found) != 1 || found[0].File != "secrets.json" || !found[0].Grave {
		t.Errorf("secrets that others can read: %+v", found)
	}
}
