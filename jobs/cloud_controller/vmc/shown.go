package vmc

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What an app prints may come from its visitors: the name of a browser, a path. On a
// terminal a control character in it could rewrite the screen, or make a line look like
// another's. There all but colours are shown as Go writes them in a string; into files
// and pipes everything goes as it is.

// colour is the one sequence that a terminal gets, at the beginning of a text.
var colour = regexp.MustCompile(`^\x1b\[[0-9;:]{0,40}m`)

// unfinished is the beginning of one, of which more may come.
var unfinished = regexp.MustCompile(`\x1b(\[[0-9;:]{0,40})?$`)

// harmless returns text as a terminal may get it.
func harmless(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		if s := colour.FindString(text); s != "" {
			b.WriteString(s)
			text = text[len(s):]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\n' || r == '\t' || r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\r' && strings.HasPrefix(text, "\r\n"):
		default:
			quoted := fmt.Sprintf("%+q", string(r))
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// screen makes what is written to it harmless. It keeps the last bytes back if more
// may belong to them; flush writes them.
type screen struct {
	w    io.Writer
	kept []byte
}

func (s *screen) Write(p []byte) (int, error) {
	s.kept = append(s.kept, p...)
	whole := len(s.kept)
	if at := unfinished.FindIndex(s.kept[max(0, whole-64):]); at != nil {
		whole = max(0, whole-64) + at[0]
	} else if whole > 0 && s.kept[whole-1] == '\r' {
		whole--
	} else {
		for n := 1; n < utf8.UTFMax && n <= whole; n++ {
			if utf8.RuneStart(s.kept[whole-n]) {
				if !utf8.FullRune(s.kept[whole-n:]) {
					whole -= n
				}
				break
			}
		}
	}
	text := harmless(string(s.kept[:whole]))
	s.kept = bytes.Clone(s.kept[whole:])
	_, err := io.WriteString(s.w, text)
	return len(p), err
}

func (s *screen) flush() error {
	_, err := io.WriteString(s.w, harmless(string(s.kept)))
	s.kept = nil
	return err
}

// copyShown copies what an app has written to w, which leads to out.
func copyShown(out, w io.Writer, r io.Reader) (int64, error) {
	if _, is := terminal(out); !is {
		return io.Copy(w, r)
	}
	s := &screen{w: w}
	n, err := io.Copy(s, r)
	if err == nil {
		err = s.flush()
	}
	return n, err
}

// shown returns a text of an app's for w.
func shown(w io.Writer, text string) string {
	if _, is := terminal(w); is {
		return harmless(text)
	}
	return text
}
