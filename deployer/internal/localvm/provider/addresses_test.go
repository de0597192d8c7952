package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func TestCheckCIDR(t *testing.T) {
	tests := map[string]string{ // to what is missing in the error, "" if there is none
		"127.40.0.0/16": "",
		"127.0.0.0/8":   "",
		"127.1.2.3/30":  "",
		"10.0.0.0/8":    "127.0.0.0/8",
		"127.0.0.0/7":   "127.0.0.0/8",
		"0.0.0.0/0":     "127.0.0.0/8",
		"::1/128":       "127.0.0.0/8",
		"127.0.0.1":     "want a range",
		"":              "want a range",
	}
	for text, want := range tests {
		_, err := checkCIDR("", text)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLowestFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(26, 32).Draw(t, "bits")
		base := netip.AddrFrom4([4]byte{127, 9, 9, byte(rapid.IntRange(0, 255).Draw(t, "base"))})
		cidr := netip.PrefixFrom(base, bits).Masked()
		state := func(label string) map[netip.Addr]bool {
			m := map[netip.Addr]bool{}
			for a := cidr.Addr(); cidr.Contains(a); a = a.Next() {
				if rapid.IntRange(0, 3).Draw(t, label) == 0 {
					m[a] = true
				}
			}
			return m
		}
		taken, busy := state("taken"), state("busy")
		var usable []netip.Addr // hosts: all but the first and the last
		for a := cidr.Addr().Next(); cidr.Contains(a) && cidr.Contains(a.Next()); a = a.Next() {
			if !taken[a] && !busy[a] {
				usable = append(usable, a)
			}
		}
		got, err := lowestFree(t.Context(), cidr, taken, func(a netip.Addr) error {
			if busy[a] {
				return fmt.Errorf("listen: %w", syscall.EADDRINUSE)
			}
			return nil
		})
		switch {
		case len(usable) == 0 && err == nil:
			t.Errorf("%s is full, got %s", cidr, got)
		case len(usable) > 0 && (err != nil || got != usable[0]):
			t.Errorf("got %s, %v, want %s", got, err, usable[0])
		}
	})
	_, err := lowestFree(t.Context(), netip.MustParsePrefix("127.0.0.0/8"), nil, func(netip.Addr) error { return syscall.EACCES })
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("a port that may not be bound: %v", err)
	}
}
