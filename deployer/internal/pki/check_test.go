package pki

import (
	"crypto/rand"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/manifests"
)

func TestCheckSecret(t *testing.T) {
	secret := func(kind manifests.SecretType) *manifests.Secret {
		return &manifests.Secret{Name: "x", Type: kind, CA: "ca", Names: []string{"a.test"}}
	}
	authority, err := NewSecret(rand.Reader, secret(manifests.SecretCA), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []manifests.SecretType{manifests.SecretPassword, manifests.SecretCA, manifests.SecretCertificate, manifests.SecretSSH, manifests.SecretRSA} {
		t.Run(string(kind), func(t *testing.T) {
			one, err := NewSecret(rand.Reader, secret(kind), authority, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			other, err := NewSecret(rand.Reader, secret(kind), authority, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckSecret(secret(kind), one); err != nil {
				t.Errorf("what was made is refused: %v", err)
			}
			for name := range one {
				for what, value := range map[string]string{"nothing": "", "nonsense": "?", "another's": other[name]} {
					changed := maps.Clone(one)
					changed[name] = value
					// Any text is a password; certificates of one CA name the same one.
					fine := kind == manifests.SecretPassword && value != "" || value == one[name]
					if err := CheckSecret(secret(kind), changed); (err == nil) != fine {
						t.Errorf("%s is %s: %v", name, what, err)
					}
				}
				changed := maps.Clone(one)
				delete(changed, name)
				if err := CheckSecret(secret(kind), changed); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("without %s: %v", name, err)
				}
			}
			changed := maps.Clone(one)
			changed["colour"] = "blue"
			if err := CheckSecret(secret(kind), changed); err == nil || !strings.Contains(err.Error(), "colour") {
				t.Errorf("with an attribute of its own: %v", err)
			}
		})
	}
	// A certificate of another CA.
	stranger, err := NewSecret(rand.Reader, secret(manifests.SecretCA), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	value, err := NewSecret(rand.Reader, secret(manifests.SecretCertificate), stranger, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	value["ca"] = authority["certificate"]
	if err := CheckSecret(secret(manifests.SecretCertificate), value); err == nil || !strings.Contains(err.Error(), "does not lead to ca") {
		t.Errorf("another CA: %v", err)
	}
}
