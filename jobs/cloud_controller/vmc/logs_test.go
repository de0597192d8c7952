package vmc

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestTimedLines: each line has the time at which its beginning was printed, and
// what the file of times lacks is no matter.
func TestTimedLines(t *testing.T) {
	for _, tc := range []struct{ text, marks, want string }{
		{"a\nb\nc\n", "0 1000\n4 3000\n", "1 a, 1 b, 3 c"},
		{"a\nb", "0 1000\n1 2000\n2 3000\n", "1 a, 3 b"},
		{"a\n", "", "- a"},
		{"a\nb\n", "2 5000\n", "- a, 5 b"},
		{"a\nb\n", "0 1000\nrubbish\n2 70", "1 a, 0 b"},
		{"", "0 1000\n", ""},
	} {
		var got []string
		for _, l := range timed([]byte(tc.text), parseMarks([]byte(tc.marks)), "0", "OUT") {
			at := "-"
			if !l.At.IsZero() {
				at = fmt.Sprint(l.At.Unix())
			}
			got = append(got, at+" "+l.Text)
		}
		if strings.Join(got, ", ") != tc.want {
			t.Errorf("%q with %q: %v, want %s", tc.text, tc.marks, got, tc.want)
		}
	}
}

// TestNewLines: who follows sees each line once, also of lines that are alike, and those
// that an instance printed before it ended, by whatever name they are read and however
// late.
func TestNewLines(t *testing.T) {
	at := time.Unix(100000, 0)
	line := func(instance string, seconds int, text string) logLine {
		return logLine{at.Add(time.Duration(seconds) * time.Second), instance, "OUT", text}
	}
	var seen shownLines
	for n, round := range []struct {
		lines []logLine
		want  string
	}{
		{[]logLine{line("0", -900, "old"), line("0", 0, "same"), line("0", 0, "same"), line("1", 0, "one")}, "old same same one"},
		{[]logLine{line("0", -900, "old"), line("0", 0, "same"), line("0", 0, "same"), line("0", 0, "same"), line("1", 0, "one"), line("1", 9, "two")}, "same two"},
		// The first has ended: it has an id, has said something more, and index 0 is another.
		{[]logLine{line("5f3a", 0, "same"), line("5f3a", 0, "same"), line("5f3a", 0, "same"), line("5f3a", 3, "last words"), line("0", 8, "hello"), line("1", 0, "one"), line("1", 9, "two")}, "last words hello"},
		{nil, ""}, // nobody answers
		{[]logLine{line("5f3a", 3, "last words"), line("0", 8, "hello"), line("0", 400, "later")}, "later"},
		{[]logLine{line("5f3a", 3, "last words"), line("7c", 50, "too late"), line("0", 400, "later")}, ""},
	} {
		var got []string
		for _, l := range seen.news(round.lines) {
			got = append(got, l.Text)
		}
		if strings.Join(got, " ") != round.want {
			t.Errorf("round %d: %v, want %s", n, got, round.want)
		}
	}
}

// FuzzTimed: no file of an app's makes vmc panic, and no line is lost.
func FuzzTimed(f *testing.F) {
	f.Add([]byte("a\nb\n"), []byte("0 1\n2 3\n"))
	f.Fuzz(func(t *testing.T, text, marks []byte) {
		lines := timed(text, parseMarks(marks), "0", "OUT")
		want := strings.Count(string(text), "\n")
		if len(text) > 0 && text[len(text)-1] != '\n' {
			want++
		}
		if len(lines) != want {
			t.Errorf("%d lines, want %d", len(lines), want)
		}
	})
}
