package wire

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// packedByRuby holds what Zlib::Deflate.deflate([7, "8"].to_json) gives.
const packedByRuby = "789c8b36d751b2508a0500067b0198"

func TestActiveApps(t *testing.T) {
	packed, err := EncodeActiveApps([]ID{"7", "8"})
	if err != nil {
		t.Fatal(err)
	}
	apps, err := ParseActiveApps(packed)
	if err != nil || !slices.Equal(apps, []ID{"7", "8"}) {
		t.Errorf("%v, %v", apps, err)
	}
	if packed, err = EncodeActiveApps(nil); err != nil {
		t.Fatal(err)
	}
	if apps, err = ParseActiveApps(packed); err != nil || apps == nil || len(apps) > 0 {
		t.Errorf("no apps: %#v, %v", apps, err)
	}

	bomb := &bytes.Buffer{}
	w := zlib.NewWriter(bomb)
	_, _ = w.Write(bytes.Repeat([]byte(" "), maxActiveApps+1))
	_ = w.Close()
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"JSON":      {[]byte(`["7"]`), "cannot unpack"},
		"empty":     {nil, "cannot unpack"},
		"cut short": {packed[:len(packed)-3], "cannot unpack"},
		"bomb":      {bomb.Bytes(), "more than"},
	} {
		if _, err := ParseActiveApps(tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

// TestActiveAppsOfRuby: what the original sends is understood, numbers as well.
func TestActiveAppsOfRuby(t *testing.T) {
	packed, err := hex.DecodeString(packedByRuby)
	if err != nil {
		t.Fatal(err)
	}
	if apps, err := ParseActiveApps(packed); err != nil || !slices.Equal(apps, []ID{"7", "8"}) {
		t.Errorf("%v, %v", apps, err)
	}
}

func FuzzParseActiveApps(f *testing.F) {
	packed, _ := hex.DecodeString(packedByRuby)
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		apps, err := ParseActiveApps(data)
		if err != nil {
			return
		}
		again, err := EncodeActiveApps(apps)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseActiveApps(again)
		if err != nil || !slices.Equal(apps, back) {
			t.Errorf("%q, then %q, %v", apps, back, err)
		}
	})
}
