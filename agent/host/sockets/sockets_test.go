package sockets

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A socket is served and found whatever the length of its path, takes the place of
// what is there, and goes when it is closed.
func TestListenAndDial(t *testing.T) {
	for name, folder := range map[string]string{"short": "", "long": strings.Repeat("long/", 40)} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), folder)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "a.sock")
			for range 2 { // the second replaces what the first has left behind
				l, err := Listen(path)
				if err != nil {
					t.Fatal(err)
				}
				meet(t, l, path)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if err := l.Close(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("closed again: %v", err)
				}
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the socket stays: %v", err)
				}
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, err := File(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			l, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			meet(t, l, path)
		})
	}
}

// meet connects both ends and sends a byte.
func meet(t *testing.T, l net.Listener, path string) {
	t.Helper()
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	got := make([]byte, 1)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := other.Read(got); err != nil || got[0] != 'x' {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNothingThere(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), "/nonexistent/" + strings.Repeat("long/", 40) + "none"} {
		if _, err := Dial(context.Background(), path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("dial %s: %v", path, err)
		}
	}
	if _, err := Listen("/nonexistent/a.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("listen: %v", err)
	}
}
