package release

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newKey makes a key and its file.
func newKey(t *testing.T) (file, public string) {
	t.Helper()
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "release.key")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, public
}

func nobody() (string, error) { return "", errors.New("nobody is there") }

// TestReleaseIsSigned: an archive opens if its signature is by one of the keys, and
// for no other reason.
func TestReleaseIsSigned(t *testing.T) {
	data := create(t, source(t))
	path, digest := write(t, data)
	file, public := newKey(t)
	otherFile, other := newKey(t)
	open := func(keys ...string) error {
		_, err := Open(path, digest, "1.2", keys)
		return err
	}
	fails := func(what, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	sign := func(file, path string) {
		t.Helper()
		key, err := LoadKey(file, nobody)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Sign(path); err != nil || got != path+".minisig" {
			t.Fatalf("signature %q, %v", got, err)
		}
	}
	if err := open(); err != nil {
		t.Errorf("no signature is asked for: %v", err)
	}
	fails("unsigned", "is not signed", open(public))
	sign(file, path)
	if err := open(other, public); err != nil {
		t.Errorf("signed by one of two: %v", err)
	}
	fails("another's key", "by one of the release's public_keys", open(other))
	fails("no key", "not a public key", open("RW"+strings.Repeat("!", 54)))
	sign(otherFile, path)
	fails("another's signature", "by one of the release's public_keys", open(public))

	// The signature of other bytes, and damaged ones.
	elsewhere, _ := write(t, append(create(t, source(t)), "more"...))
	sign(file, elsewhere)
	foreign, err := os.ReadFile(elsewhere + ".minisig")
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{
		"of other bytes": foreign, "empty": nil, "none": []byte("hello\n"), "half": foreign[:len(foreign)/2],
	} {
		if err := os.WriteFile(path+".minisig", text, 0o600); err != nil {
			t.Fatal(err)
		}
		fails(what, "by one of the release's public_keys", open(public))
	}
	if err := os.WriteFile(path+".minisig", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("huge", "larger than", open(public))
}

// encrypted begins a private key that the program minisign made. To open one takes
// seconds and a GiB of memory, so that no test does.
const encrypted = "untrusted comment: minisign encrypted secret key\nRWRTY0IyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"

// TestSigningKeys: a key is used if it is one; the passphrase of an encrypted one is
// asked for.
func TestSigningKeys(t *testing.T) {
	file, public := newKey(t)
	key, err := LoadKey(file, nobody)
	if err != nil || key.Public() != public || len(public) != 56 {
		t.Errorf("key %q, want %q, %v", key.Public(), public, err)
	}
	for text, want := range map[string]string{
		"no key\n": "not a private key of minisign", public: "not a private key of minisign", encrypted: "nobody is there",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(file, nobody); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func FuzzSignature(f *testing.F) {
	data := create(f, source(f))
	path, digest := write(f, data)
	_, public, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("untrusted comment: x\nRUQ\ntrusted comment: y\nz\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path+".minisig", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, digest, "1.2", []string{public}); err == nil {
			t.Errorf("taken for a signature: %q", text)
		}
	})
}
