package plan

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// certificate is a PEM block of some lines, indented.
func certificate(fill byte, indent string) string {
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(strings.Repeat(string(fill), 200))}))
	return indent + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+indent) + "\n"
}

// A certificate that takes another's place is told by the two fingerprints, although
// both begin and end with the same line.
func TestPEMIsShownAsItsFingerprint(t *testing.T) {
	lines := func(from, to string) []string {
		return strings.Split(strings.TrimSpace(difference("f", from, to, true, true)), "\n")[3:] // without the heading
	}
	for _, indent := range []string{"", "    "} {
		got := lines("tls:\n"+certificate('a', indent)+"end\n", "tls:\n"+certificate('b', indent)+"end\n")
		if len(got) != 4 || !strings.HasPrefix(got[1], "-"+indent+"certificate, sha256 ") || !strings.HasPrefix(got[2], "+"+indent+"certificate, sha256 ") || got[1][1:] == got[2][1:] {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
	}
	cut := strings.Replace(certificate('a', ""), "-----END", "----END", 1)
	if got := strings.Join(lines("", cut), "\n"); strings.Contains(got, "sha256") || !strings.Contains(got, "-----BEGIN") {
		t.Errorf("a block that is not whole was shortened:\n%s", got)
	}
	whole := certificate('a', "")
	if got := lines(whole, strings.Replace(whole, "\n", " \n", 1)); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), "BEGIN") {
		t.Errorf("a block that is written another way: %q", got)
	}
}

// A command that changes is told by what changes in it, and nothing sensitive is.
func TestCommandsAreComparedByWords(t *testing.T) {
	for _, c := range []struct {
		was, now []string // nil: not told
		want     string
	}{
		{[]string{"/bin/web", "-v"}, []string{"/bin/web", "-v", "-p", "80"}, "command … -> … -p 80"},
		{[]string{"/bin/web", "-p", "80", "x"}, []string{"/bin/web", "-p", "81", "x"}, "command … 80 … -> … 81 …"},
		{[]string{"a"}, []string{"b", "it's", "", "two words"}, `command a -> b "it's" "" "two words"`},
		{[]string{"a", "x", "x"}, []string{"a", "x"}, "command … x -> …"},
		{nil, []string{"b", "(sensitive)"}, "command, now b (sensitive)"},
		{[]string{"a", "(sensitive)"}, []string{"a", "(sensitive)"}, "command (a sensitive value)"},
		{[]string{"a"}, nil, "command"},
		{[]string{"a", strings.Repeat("x", 100)}, []string{"a", strings.Repeat("y", 100)}, "command … " + strings.Repeat("x", 60) + "… -> … " + strings.Repeat("y", 60) + "…"},
		{[]string{"a"}, []string{"a", "x\n\x1b[2J"}, `command … -> … "x\n\x1b[2J"`},
	} {
		told := func(words []string) *api.Job {
			if words == nil {
				return &api.Job{}
			}
			return &api.Job{Commands: map[string][]string{"p": words}}
		}
		if got := commandChange(told(c.was), told(c.now), "p"); got != c.want {
			t.Errorf("%q to %q: %q, want %q", c.was, c.now, got, c.want)
		}
	}
	if got := commandChange(&api.Job{}, &api.Job{Commands: map[string][]string{"p": {certificate('a', "")}}}, "p"); !strings.Contains(got, "certificate, sha256 ") {
		t.Errorf("a certificate as a word: %q", got)
	}
}
