package acme

import (
	"strings"
	"testing"
)

// The answer to a token follows from the account's key alone.
func TestThumbprint(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	one, err := Thumbprint(key)
	if err != nil || len(one) != 43 || strings.Trim(one, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatalf("%q, %v", one, err)
	}
	if two, err := Thumbprint(key); err != nil || two != one {
		t.Errorf("%q and %q, %v", one, two, err)
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if three, err := Thumbprint(other); err != nil || three == one {
		t.Errorf("two keys have the thumbprint %q, %v", one, err)
	}
	for _, broken := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if got, err := Thumbprint(broken); err == nil {
			t.Errorf("%q gives %q", broken, got)
		}
	}
}

// A hook says what it was asked, and why it failed.
func TestHook(t *testing.T) {
	c := &Client{settings: Settings{Hook: []string{"/bin/sh", "-c", `echo "$0 $@"; test "$1" = present`, "--zone"}}}
	if err := c.set(t.Context(), "present", "_acme-challenge.a.example", "value"); err != nil {
		t.Error(err)
	}
	err := c.set(t.Context(), "cleanup", "_acme-challenge.a.example", "value")
	if err == nil || !strings.Contains(err.Error(), "dns_hook cleanup _acme-challenge.a.example: exit status 1: --zone cleanup _acme-challenge.a.example value") {
		t.Error(err)
	}
	if err := (&Client{}).set(t.Context(), "present", "a", "b"); err == nil || !strings.Contains(err.Error(), "set dns_hook") {
		t.Error(err)
	}
}
