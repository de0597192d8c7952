package vmc

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"

	"github.com/creack/pty"
)

func TestHarmless(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain \tä€\n":                      "plain \tä€\n",
		"\x1b[31mred\x1b[0m\x1b[1;38:5:7mx": "\x1b[31mred\x1b[0m\x1b[1;38:5:7mx",
		"\x1b]0;owned\a":                    `\x1b]0;owned\a`,
		"\x1b[2J\x1b[1A":                    `\x1b[2J\x1b[1A`,
		"a\rb\r\nc\r":                       "a\\rb\nc\\r",
		"\x9b31m \u009b \u202e \xe2\x82":    `\x9b31m \u009b \u202e \xe2\x82`,
		"\x1b":                              `\x1b`,
	} {
		if got := harmless(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		var out bytes.Buffer
		s := &screen{w: &out}
		if _, err := io.Copy(s, iotest.OneByteReader(strings.NewReader(text))); err != nil || s.flush() != nil || out.String() != want {
			t.Errorf("%q, byte by byte: %q, %v", text, out.String(), err)
		}
	}
}

// FuzzHarmless: however a text is cut, a terminal gets the same, and nothing but colours
// that it would not show.
func FuzzHarmless(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\r\n", 3)
	f.Add("\x1b]0;x\a\xe2\x82", 5)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		want := harmless(text)
		left := want
		for i := strings.IndexByte(left, 0x1b); i >= 0; i = strings.IndexByte(left, 0x1b) {
			s := colour.FindString(left[i:])
			if s == "" {
				t.Fatalf("%q becomes %q", text, want)
			}
			left = left[:i] + left[i+len(s):]
		}
		if strings.ContainsFunc(left, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }) {
			t.Errorf("%q becomes %q", text, want)
		}
		var out bytes.Buffer
		s := &screen{w: &out}
		cut = max(0, min(cut, len(text)))
		_, err := s.Write([]byte(text[:cut]))
		_, err2 := s.Write([]byte(text[cut:]))
		if err != nil || err2 != nil || s.flush() != nil || out.String() != want {
			t.Errorf("%q, cut at %d: %q, want %q", text, cut, out.String(), want)
		}
	})
}

// TestTerminalsGetNoControls: a log that would rewrite the screen is shown on a terminal,
// and passed on unchanged to everything else.
func TestTerminalsGetNoControls(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;owned\a\x1b[2Jx"
	outside, inside, err := pty.Open()
	must(t, err)
	defer outside.Close()
	defer inside.Close()
	if _, err := copyShown(inside, inside, strings.NewReader(evil+"\n")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := outside.Read(got)
	if want := `\x1b]0;owned\a\x1b[2Jx` + "\r\n"; err != nil || string(got[:n]) != want || shown(inside, evil) != strings.TrimSpace(want) {
		t.Errorf("a terminal gets %q, %v", got[:n], err)
	}
	var file bytes.Buffer
	if _, err := copyShown(&file, &file, strings.NewReader(evil)); err != nil || file.String() != evil || shown(&file, evil) != evil {
		t.Errorf("a file gets %q, %v", file.String(), err)
	}
}
