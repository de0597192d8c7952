package state

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written is a folder as a run leaves it.
func written(t *testing.T, keys *Keys, encryption *Encryption) Store {
	t.Helper()
	s := Store{Dir: filepath.Join(t.TempDir(), ".deploy", "cf"), Keys: keys}
	st := New("cf")
	secrets := &Secrets{DigestKey: []byte("key"), Encryption: encryption, Values: map[string]map[string]string{"a": {"value": "b"}}}
	if err := s.Begin(st, secrets, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Journal(Entry{What: "apply"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"terraform/terraform.tfstate": `{"version":4}`, "terraform/applied.json": `{}`, "vms/g-0/status.json": "{}", "packages/abc.tar.gz": "abc"} {
		path := filepath.Join(s.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// contents are all files of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A folder of which a part is missing or damaged is no deployment that begins.
func TestDamageIsNotTakenForAFreshStart(t *testing.T) {
	other := written(t, nil, nil)
	foreign, err := os.ReadFile(other.secretsFile())
	if err != nil {
		t.Fatal(err)
	}
	half := func(data []byte) []byte { return data[:len(data)/2] }
	for _, tc := range []struct {
		name, file string
		change     func([]byte) []byte // nil removes it
		want       []string
	}{
		{"state removed", "state.json", nil, []string{"state.json is missing", "secrets.json, journal.jsonl", "state import"}},
		{"state emptied", "state.json", func([]byte) []byte { return nil }, []string{"state.json", "it is empty", "state import"}},
		{"state without content", "state.json", func([]byte) []byte { return []byte("{}") }, []string{"state.json", "not a state", "state import"}},
		{"state halved", "state.json", half, []string{"state.json", "cut off", "state import"}},
		{"secrets removed", "secrets.json", nil, []string{"secrets.json is missing", "state.json is there", "state import"}},
		{"secrets emptied", "secrets.json", func([]byte) []byte { return nil }, []string{"secrets.json", "it is empty", "state import"}},
		{"secrets halved", "secrets.json", half, []string{"secrets.json", "cut off", "state import"}},
		{"another's secrets", "secrets.json", func([]byte) []byte { return foreign }, []string{"secrets.json", "another deployment", "state import"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := written(t, nil, nil)
			path := filepath.Join(s.Dir, tc.file)
			data, err := os.ReadFile(path)
			if err == nil && tc.change != nil {
				err = os.WriteFile(path, tc.change(data), 0o600)
			} else if err == nil {
				err = os.Remove(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := contents(t, s.Dir)
			st, _, err := s.Load()
			if st != nil || !errors.Is(err, ErrDamaged) {
				t.Fatalf("loaded %v, %v", st, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			// Even who goes on as if there were nothing cannot replace what is there.
			if err := s.Begin(New("cf"), &Secrets{}, 1); err == nil {
				t.Error("a run began")
			}
			if !maps.Equal(before, contents(t, s.Dir)) {
				t.Error("something was written")
			}
		})
	}
}

// The way out that messages name works, also without force.
func TestADamagedFolderTakesAnImport(t *testing.T) {
	s := written(t, nil, nil)
	var export bytes.Buffer
	if err := s.Export(&export, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.stateFile()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(&export, "cf", false); err != nil {
		t.Fatal(err)
	}
	if st, secrets, err := s.Load(); err != nil || st.Epoch != 1 || secrets.Values["a"]["value"] != "b" {
		t.Errorf("%+v, %v", st, err)
	}
}

// A first run that was ended between its two files is continued with the secrets
// that it made, and in the way that they were encrypted.
func TestSecretsOfAFirstRunAreTakenUp(t *testing.T) {
	identity, recipient := newIdentity(t)
	how := &Encryption{Recipients: []string{recipient}}
	s := Store{Dir: filepath.Join(t.TempDir(), ".deploy", "cf"), Keys: &Keys{IdentityFile: identity}}
	if err := s.Begin(New("cf"), &Secrets{Encryption: how, DigestKey: []byte("first")}, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.stateFile()); err != nil {
		t.Fatal(err)
	}
	st, secrets, err := s.Load()
	if err != nil || st != nil || string(secrets.DigestKey) != "first" || secrets.Encryption == nil {
		t.Fatalf("%v, %+v, %v", st, secrets, err)
	}
	if err := s.Begin(New("cf"), &Secrets{}, 1); err == nil || !strings.Contains(err.Error(), "was not read") {
		t.Errorf("secrets that were not read were replaced: %v", err)
	}
	if err := s.Begin(New("cf"), secrets, 1); err != nil {
		t.Error(err)
	}
}

// A removal that is ended anywhere leaves nothing that looks damaged.
func TestRemoveLeavesNoHalfFolder(t *testing.T) {
	s := written(t, nil, nil)
	gone := filepath.Join(filepath.Dir(s.Dir), ".cf.removed", "vms")
	if err := os.MkdirAll(gone, 0o700); err != nil { // of one that was ended
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(s.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder above is still there: %v", err)
	}
}
