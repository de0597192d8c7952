package auth

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSigner(t *testing.T) {
	s, now := NewSigner("key"), time.Unix(1343815200, 0)
	token := s.Sign("dev@example.com", "hash", now.Add(time.Hour))
	if owner, err := s.Owner(token); err != nil || owner != "dev@example.com" {
		t.Errorf("owner %q, %v", owner, err)
	}
	for _, tc := range []struct {
		name   string
		signer Signer
		hash   string
		at     time.Time
		valid  bool
	}{
		{"at once", s, "hash", now, true},
		{"another controller", NewSigner("key"), "hash", now, true},
		{"just before the end", s, "hash", now.Add(time.Hour - time.Second), true},
		{"at the end", s, "hash", now.Add(time.Hour), false},
		{"another key", NewSigner("kez"), "hash", now, false},
		{"a new password", s, "other", now, false},
	} {
		if err := tc.signer.Check(token, tc.hash, tc.at); (err == nil) != tc.valid {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// No other bytes than those that were signed are a token.
func TestForgery(t *testing.T) {
	s, now := NewSigner("key"), time.Unix(1343815200, 0)
	token := s.Sign("dev@example.com", "hash", now.Add(time.Hour))
	rapid.Check(t, func(t *rapid.T) {
		forged := []byte(token)
		i := rapid.IntRange(0, len(forged)-2).Draw(t, "at") // the last digit has bits that mean nothing
		digits := []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
		forged[i] = rapid.SampledFrom(digits).Filter(func(b byte) bool { return b != token[i] }).Draw(t, "byte")
		if s.Check(string(forged), "hash", now) == nil {
			t.Errorf("%s is taken for %s", forged, token)
		}
	})
}

func FuzzToken(f *testing.F) {
	s := NewSigner("key")
	f.Add(s.Sign("dev@example.com", "hash", time.Now()))
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		if s.Check(token, "a hash that nothing was signed with", time.Unix(0, 0)) == nil {
			t.Errorf("%q is valid", token)
		}
		if _, err := s.Owner(token); err != nil && !errors.Is(err, ErrToken) {
			t.Error(err)
		}
	})
}
