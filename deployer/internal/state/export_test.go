package state

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

// newIdentity makes an age identity file and its recipient.
func newIdentity(t testing.TB) (file, recipient string) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, identity.Recipient().String()
}

func passphrase(p string) *Keys {
	return &Keys{Ask: func(bool) (string, error) { return p, nil }, workFactor: 10}
}

func TestEncryptedSecrets(t *testing.T) {
	identity, recipient := newIdentity(t)
	stranger, _ := newIdentity(t)
	tests := []struct {
		name  string
		how   Encryption
		right func() *Keys
		wrong map[string]*Keys // by what the error says
	}{
		{"passphrase", Encryption{Passphrase: true}, func() *Keys { return passphrase("correct horse") },
			map[string]*Keys{"passphrase is wrong": passphrase("battery"), "DEPLOY_PASSPHRASE": {}, "DEPLOY_IDENTITY": nil}},
		{"recipients", Encryption{Recipients: []string{recipient}}, func() *Keys { return &Keys{IdentityFile: identity} },
			map[string]*Keys{"encrypted for others": {IdentityFile: stranger}, "DEPLOY_IDENTITY": passphrase("x"), "no such file": {IdentityFile: identity + "x"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := Store{Dir: t.TempDir(), Keys: test.right()}
			st := New("cf")
			secrets := &Secrets{Encryption: &test.how, Values: map[string]map[string]string{"nats": {"value": "open sesame"}}}
			if _, err := store.Save(st, secrets); err != nil {
				t.Fatal(err)
			}
			first, err := os.ReadFile(store.secretsFile())
			if err != nil {
				t.Fatal(err)
			}
			if !Encrypted(first) || bytes.Contains(first, []byte("sesame")) {
				t.Fatalf("not encrypted: %s", first)
			}
			// Another process: what it does not change stays as it is, byte for byte.
			store.Keys = test.right()
			st, loaded, err := store.Load()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(loaded, secrets) {
				t.Errorf("came back as %+v", loaded)
			}
			if wrote, err := store.Save(st, loaded); err != nil || wrote {
				t.Errorf("saved what was loaded: wrote %v, %v", wrote, err)
			}
			loaded.Values["nats"]["value"] = "another"
			if wrote, err := store.Save(st, loaded); err != nil || !wrote {
				t.Errorf("saved a change: wrote %v, %v", wrote, err)
			}
			if _, again, err := store.Load(); err != nil || again.Values["nats"]["value"] != "another" {
				t.Errorf("after the change: %v, %v", again, err)
			}
			for want, keys := range test.wrong {
				store.Keys = keys
				if _, _, err := store.Load(); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want it to say %q", err, want)
				}
			}
		})
	}
}

func TestEncryptionCheck(t *testing.T) {
	_, recipient := newIdentity(t)
	for _, bad := range []Encryption{{}, {Passphrase: true, Recipients: []string{recipient}}, {Recipients: []string{"age1nonsense"}}} {
		if bad.Check() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	for _, good := range []Encryption{{Passphrase: true}, {Recipients: []string{recipient}}} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
}

func TestExportAndImport(t *testing.T) {
	identity, recipient := newIdentity(t)
	keys := func() *Keys { return &Keys{IdentityFile: identity} }
	from := Store{Dir: t.TempDir(), Keys: keys()}
	st := New("cf")
	secrets := &Secrets{Values: map[string]map[string]string{"nats": {"value": "open sesame"}}}
	if err := from.Begin(st, secrets, 7); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(from.Terraform(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from.Terraform(), "terraform.tfstate"), []byte(`{"serial":3}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string]*Encryption{"plain": nil, "encrypted": {Recipients: []string{recipient}}} {
		t.Run(name, func(t *testing.T) {
			var export bytes.Buffer
			if err := from.Export(&export, how); err != nil {
				t.Fatal(err)
			}
			if got := !bytes.Contains(export.Bytes(), []byte("open sesame")); got != (how != nil) {
				t.Errorf("hides the secrets: %v", got)
			}
			to := Store{Dir: filepath.Join(t.TempDir(), ".deploy", "cf"), Keys: keys()}
			for range 2 { // again over the same: nothing to lose
				if _, err := to.Import(bytes.NewReader(export.Bytes()), "cf", false); err != nil {
					t.Fatal(err)
				}
			}
			gotState, gotSecrets, err := to.Load()
			if err != nil || !reflect.DeepEqual(gotState, st) || !reflect.DeepEqual(gotSecrets, secrets) {
				t.Errorf("came back as %+v, %+v, %v", gotState, gotSecrets, err)
			}
			for _, file := range []string{"state.json", "secrets.json", "terraform/terraform.tfstate", ".gitignore"} {
				want, _ := os.ReadFile(filepath.Join(from.Dir, file))
				got, err := os.ReadFile(filepath.Join(to.Dir, file))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %q, %v", file, got, err)
				}
				if info, err := os.Stat(filepath.Join(to.Dir, file)); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", file, info.Mode())
				}
			}
			if _, err := to.Import(bytes.NewReader(export.Bytes()), "other", false); err == nil || !strings.Contains(err.Error(), `"cf"`) {
				t.Errorf("for another deployment: %v", err)
			}

			// What would be lost is kept, unless forced.
			for what, put := range map[string]func() (*State, error){
				"another deployment": func() (*State, error) {
					if err := errors.Join(os.Remove(to.stateFile()), os.RemoveAll(to.Terraform())); err != nil {
						return nil, err
					}
					other, theirs := New("cf"), *secrets
					_, err := to.Save(other, &theirs)
					return other, err
				},
				"later state": func() (*State, error) {
					later := *st
					return &later, to.Begin(&later, secrets, 8)
				},
			} {
				in, err := put()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := to.Import(bytes.NewReader(export.Bytes()), "cf", false); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "--force") {
					t.Errorf("over %s: %v", what, err)
				}
				if got, err := to.LoadState(); err != nil || !reflect.DeepEqual(got, in) {
					t.Errorf("after the refusal: %+v, %v", got, err)
				}
				if _, err := to.Import(bytes.NewReader(export.Bytes()), "cf", true); err != nil {
					t.Errorf("forced over %s: %v", what, err)
				}
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	from := Store{Dir: f.TempDir()}
	if _, err := from.Save(New("cf"), &Secrets{}); err != nil {
		f.Fatal(err)
	}
	var export bytes.Buffer
	if err := from.Export(&export, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(export.Bytes())
	f.Add(export.Bytes()[:700])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := from.unpack(data)
		if err != nil {
			return
		}
		for name := range files {
			if !slices.Contains(from.exported(), name) {
				t.Errorf("unpacked %q", name)
			}
		}
		if st, err := parseState(files["state.json"]); err == nil && st.Version != 1 {
			t.Errorf("accepted version %d", st.Version)
		}
	})
}
