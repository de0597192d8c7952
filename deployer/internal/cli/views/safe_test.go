package views

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hinshun/vt10x"
	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 漢字 ✓":                "plain äöü 漢字 ✓",
		"a\tb\nc":                       "a\tb\nc",
		"\x1b[6A\r\x1b[J":               `\x1b[6A\r\x1b[J`,
		"bell\a, null\x00, DEL\x7f":     `bell\a, null\x00, DEL\u007f`,
		"C1 \u009b2J":                   `C1 \u009b2J`,
		"right to left \u202egnp.exe":   `right to left \u202egnp.exe`,
		"isolate \u2066x\u2069":         `isolate \u2066x\u2069`,
		"line separator \u2028x":        `line separator \u2028x`,
		"zero width \u200bspace \ufeff": `zero width \u200bspace \ufeff`,
		"no UTF-8 \xff\xc3":             `no UTF-8 \xff\xc3`,
		"\ufffd":                        "\ufffd",
		strings.Repeat("x", 2000):       strings.Repeat("x", 2000),
		strings.Repeat("x", 2001):       strings.Repeat("x", 2000) + "… (1 more bytes)",
	} {
		got := safe(in)
		if strings.ReplaceAll(got, `\u007f`, `\x7f`) != strings.ReplaceAll(want, `\u007f`, `\x7f`) {
			t.Errorf("safe(%q) is %q, want %q", in, got, want)
		}
	}
}

// hostile is text as one who attacks an operator's terminal would write it.
func hostile() *rapid.Generator[string] {
	parts := rapid.SampledFrom([]string{
		"\x1b[6A", "\x1b[2J", "\x1b[8m", "\x1b]0;title\a", "\x1bM", "\x1b7", "\x1b[1;1H", "\r", "\n", "\r\n", "\b\b\b", "\v", "\f", "\x00", "\x7f", "\u009b1A",
		"\u202e", "\u2066", "\u200b", "\xff", "\xc3", "nothing to do, everything matches the manifest.", "Plan: 0 unchanged.", "  ", "\t", "ä", "漢", "value",
	})
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(parts, 1, 8).Draw(t, "parts"), "")
	})
}

// Whatever a value says, a terminal shows each line of the plan where and as it
// was printed.
func TestTerminalShowsThePlanAsPrinted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := hostile().Draw(t, "value")
		p := &plan.Plan{Deployment: "cf", VMs: []plan.VMChange{{Resource: value, Action: plan.Create}}, Instances: []plan.InstanceChange{{
			Instance: "ctl/0", Group: "ctl", Action: plan.Update, Causes: []string{"property " + value},
			Files:     []plan.FileChange{{Job: "ctl", Path: value, Diff: "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+" + value + "\n"}},
			Processes: []plan.ProcessChange{{Job: "ctl", Name: "p", Action: plan.ProcessRestart, Cause: value}},
		}}}
		var b bytes.Buffer
		Plan(&b, p, true)
		shows(t, b.String())
	})
}

// The same for what a failed run, an agent or a doctor says.
func TestTerminalShowsEverythingAsPrinted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := hostile().Draw(t, "value")
		var b bytes.Buffer
		switch rapid.IntRange(0, 5).Draw(t, "view") {
		case 0:
			Status(&b, &deployer.Status{Deployment: "cf", Warnings: []string{value}, Instances: []deployer.InstanceStatus{{
				ID: "a/0", State: value, Reasons: []string{value}, Processes: []deployer.ProcessStatus{{Name: value}},
			}}}, true, 80)
		case 1:
			Diagnosis(&b, &deployer.Diagnosis{Findings: []deployer.Finding{{Check: value, Level: deployer.LevelFail, Message: value, Fix: value}}}, true)
		case 2:
			Error(&b, fmt.Errorf("cannot do it: %s", value), true, 80)
		case 3:
			History(&b, &deployer.History{Entries: []deployer.HistoryEntry{{At: time.Unix(0, 0), What: value, Who: value, Result: value}}})
		case 4:
			l := NewLogs(&b, false, true, true)
			if err := l.Line(deployer.LogLine{Instance: "a/0", Process: "p", Text: value}); err != nil {
				t.Fatal(err)
			}
		case 5:
			p := NewPlainProgress(&b)
			p.Event(deployer.Event{Phase: deployer.PhaseRollout, Instance: "a/0", Step: value, Error: value})
		}
		shows(t, b.String())
	})
}

// shows fails unless a terminal shows the printed lines one below the other.
func shows(t *rapid.T, printed string) {
	t.Helper()
	if !utf8.ValidString(printed) {
		t.Fatalf("not UTF-8: %q", printed)
	}
	const columns = 3000
	lines := strings.Split(strings.TrimSuffix(printed, "\n"), "\n")
	terminal := vt10x.New(vt10x.WithSize(columns, len(lines)+5))
	if _, err := terminal.Write([]byte(strings.ReplaceAll(printed, "\n", "\r\n"))); err != nil {
		t.Fatal(err)
	}
	terminal.Lock()
	defer terminal.Unlock()
	for row, l := range lines {
		var shown strings.Builder
		for column := range columns {
			shown.WriteRune(terminal.Cell(column, row).Char)
		}
		want := strings.TrimRight(expand(uncolored(l)), " ")
		if got := strings.TrimRight(strings.ReplaceAll(shown.String(), "\x00", " "), " "); got != want {
			t.Fatalf("line %d of\n%q\nis shown as %q, want %q", row, printed, got, want)
		}
	}
}

// uncolored takes out what paint adds.
func uncolored(l string) string {
	for _, code := range []ansi{red, green, yellow, bold, faint, "0"} {
		l = strings.ReplaceAll(l, "\x1b["+string(code)+"m", "")
	}
	return l
}

// expand puts blanks in the place of tabs, as a terminal does.
func expand(l string) string {
	var b strings.Builder
	column := 0
	for _, r := range l {
		if r != '\t' {
			b.WriteRune(r)
			column++
			continue
		}
		for ok := true; ok; ok = column%8 != 0 {
			b.WriteByte(' ')
			column++
		}
	}
	return b.String()
}

// The source lines of a manifest's problems are somebody's text, too; and what is
// wrong beside the manifest is not lost.
func TestManifestErrorsAreSafeAndWhole(t *testing.T) {
	problem := func(source string) error {
		return &deployer.ManifestError{
			Files: map[string]*hcl.File{"m.hcl": {Bytes: []byte(source)}},
			Diagnostics: hcl.Diagnostics{{
				Severity: hcl.DiagError, Summary: "Wrong", Detail: "It is wrong.",
				Subject: &hcl.Range{Filename: "m.hcl", Start: hcl.InitialPos, End: hcl.Pos{Line: 1, Column: 2, Byte: 1}},
			}},
		}
	}
	const plain = "Error: Wrong\n\n  on m.hcl line 1:\n   1: %s\n\nIt is wrong.\n\n"
	for _, c := range []struct {
		err  error
		want string
	}{
		{problem("a = 1"), fmt.Sprintf(plain, "a = 1")},
		{problem("a = \x1b[2J\xe4\u202e"), fmt.Sprintf(plain, `a = \x1b[2J\xe4\u202e`)},
		{
			errors.Join(fmt.Errorf("cannot plan: %w", problem("a")), errors.New("no engine"), errors.Join(problem("b"), errors.New("no disk"))),
			fmt.Sprintf(plain, "a") + fmt.Sprintf(plain, "b") + "Error: no engine\nno disk\n",
		},
	} {
		var b bytes.Buffer
		Error(&b, c.err, false, 78)
		if b.String() != c.want {
			t.Errorf("got %q\nwant %q", b.String(), c.want)
		}
	}
	var b bytes.Buffer
	Error(&b, problem("a = \x1b[2J"), true, 78)
	if strings.Contains(b.String(), "\x1b[2J") {
		t.Errorf("in colour: %q", b.String())
	}
	b.Reset()
	if Error(&b, problem("a = 1"), true, 78); !strings.Contains(b.String(), "\x1b[") {
		t.Errorf("without colour: %q", b.String())
	}
}
