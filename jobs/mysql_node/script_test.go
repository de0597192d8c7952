package mysqlnode

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScript(t *testing.T) {
	t.Parallel()
	statements := func(s *script) (list []string, lines []int, err error) {
		for {
			text, line, err := s.next()
			if errors.Is(err, io.EOF) {
				return list, lines, nil
			}
			if err != nil {
				return list, lines, err
			}
			list, lines = append(list, string(text)), append(lines, line)
		}
	}
	for _, c := range []struct {
		text  string
		want  []string
		lines []int
	}{
		{"", nil, nil},
		{"SELECT 1;\n\nSELECT 2", []string{"SELECT 1", "SELECT 2"}, []int{1, 3}},
		{"-- a; b\nSELECT ';', \"a;\\\";\", `x;`;", []string{"-- a; b\nSELECT ';', \"a;\\\";\", `x;`"}, []int{2}},
		{"SELECT 'it''s;', 'a\\';';SELECT 2;", []string{"SELECT 'it''s;', 'a\\';'", "SELECT 2"}, []int{1, 1}},
		{"/*!40101 SET NAMES utf8 */;\n/* none; */;", []string{"/*!40101 SET NAMES utf8 */", ""}, []int{1, 0}},
		{"/*M!999999\\- enable the sandbox mode */ \n-- x\nSET x=1;", []string{"/*M!999999\\- enable the sandbox mode */ \n-- x\nSET x=1"}, []int{1}},
		{"DELIMITER ;;\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END ;;\ndelimiter ;\nSELECT 3;", []string{"CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END", "SELECT 3"}, []int{2, 4}},
		{"SELECT 5 -1; SELECT 4--1;", []string{"SELECT 5 -1", "SELECT 4--1"}, []int{1, 1}},
		{"DROP TABLE a;\ndelimiters", []string{"DROP TABLE a", "delimiters"}, []int{1, 2}},
		{"\\! id\nsource /etc/passwd\n;", []string{"\\! id\nsource /etc/passwd"}, []int{1}},
	} {
		got, lines, err := statements(newScript(strings.NewReader(c.text)))
		if err != nil || cmp.Diff(c.want, got) != "" || cmp.Diff(c.lines, lines) != "" {
			t.Errorf("%q: %q at %v, %v", c.text, got, lines, err)
		}
	}
	s := newScript(strings.NewReader(`SELECT 'a\'; SELECT "b\"; SELECT 1;`))
	s.noBackslash = true
	if got, _, err := statements(s); err != nil || len(got) != 3 {
		t.Errorf("without backslashes: %q, %v", got, err)
	}
	for _, bad := range []string{"SELECT 'a", "/* a", "DELIMITER \nSELECT 1;", "SELECT '\\", "DELIMITER " + strings.Repeat("x", 1<<17)} {
		if got, _, err := statements(newScript(strings.NewReader(bad))); err == nil {
			t.Errorf("%.20q: %q", bad, got)
		}
	}
	long := newScript(endless{})
	long.most = 1 << 20
	if _, _, err := statements(long); !errors.Is(err, errStatementTooLong) {
		t.Errorf("a statement without an end: %v", err)
	}
}

// endless is a text without a delimiter.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// FuzzScript: reading ends, and statements have nothing that was not in the text.
func FuzzScript(f *testing.F) {
	f.Add([]byte("SELECT 'a;\\'' ; -- x\nDELIMITER $$\n/*!1 b */ $$ # c"), false)
	f.Add([]byte(`SELECT 'a\'; SELECT 2`), true)
	f.Fuzz(func(t *testing.T, data []byte, noBackslash bool) {
		s := newScript(bytes.NewReader(data))
		s.noBackslash = noBackslash
		for n := 0; ; n++ {
			statement, _, err := s.next()
			if err != nil {
				return
			}
			if n > len(data) || !bytes.Contains(data, statement) {
				t.Fatalf("%q: %q", data, statement)
			}
		}
	})
}
