package mbus

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files of testdata/rewritten")

// three holds what the bus of the tests is.
var three = Settings{
	Servers: []string{"127.0.1.1:4222", "127.0.1.2:4222", "127.0.1.3:14222"},
	User:    "cf", Password: "p@ss:w/rd,1%", Choice: 1,
}

const userinfo = "cf:p%40ss%3Aw%2Frd%2C1%25@"

// TestDevbox rewrites every file of the article's devbox. The expected bytes
// come from two sides: from golden files, and from replacing the one URI that
// all of them have, outside of comments, as a person with an editor would.
func TestDevbox(t *testing.T) {
	root := "testdata/devbox"
	files := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, changes, err := Rewrite(source, three)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		golden := filepath.Join("testdata/rewritten", strings.TrimPrefix(path, root))
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				return err
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not as %s:\n%s", path, golden, got)
		}
		if edited, n := byHand(string(source)); string(got) != edited || len(changes) != n {
			t.Errorf("%s: %d changes, by hand %d:\n%s\nby hand:\n%s", path, len(changes), n, got, edited)
		}
		again, more, err := Rewrite(got, three)
		if err != nil || len(more) > 0 || !bytes.Equal(again, got) {
			t.Errorf("%s: a second run changes %v, %v", path, more, err)
		}
		return nil
	})
	if err != nil || files < 14 {
		t.Fatalf("%d files, %v", files, err)
	}
}

func byHand(source string) (string, int) {
	lines := strings.SplitAfter(source, "\n")
	n := 0
	for i, line := range lines {
		if strings.HasPrefix(line, "#") || strings.Contains(line, "motd") {
			continue
		}
		for _, old := range []string{"nats://nats:nats@10.1.0.9:4222", `nats:\/\/nats:nats@10.1.0.9:4222\/`} {
			changed := strings.Replace(line, old, "nats://"+userinfo+"127.0.1.2:4222"+strings.Repeat("/", strings.Count(old, `\/`)/3), 1)
			if changed != line {
				lines[i] = changed
				n++
				break
			}
		}
	}
	return strings.Join(lines, ""), n
}

// TestForms has a source and what becomes of it; "=" means that it stays.
func TestForms(t *testing.T) {
	const a, b, c = "nats://" + userinfo + "127.0.1.1:4222", "nats://" + userinfo + "127.0.1.2:4222", "nats://" + userinfo + "127.0.1.3:14222"
	for name, tc := range map[string]struct {
		source, want string
		settings     func(*Settings)
	}{
		"plain":               {"mbus: nats://nats:nats@10.0.0.9:4222\n", "mbus: " + b + "\n", nil},
		"no end of line":      {"mbus: nats://nats:nats@10.0.0.9:4222", "mbus: " + b, nil},
		"slash and query":     {"mbus: nats://h:1/?x=1 # c\n", "mbus: " + b + "/?x=1 # c\n", nil},
		"no user before":      {"mbus: nats://localhost\n", "mbus: " + b + "\n", nil},
		"upper-case scheme":   {"mbus: NATS://u:p@h:1\n", "mbus: NATS://" + userinfo + "127.0.1.2:4222\n", nil},
		"odd password before": {"mbus: nats://u:p@s/s,x:1@h:1/\n", "mbus: " + b + "/\n", nil},
		"single quotes":       {"mbus:   'nats://u:p@h:1'  # 'c'\n", "mbus:   '" + b + "'  # 'c'\n", nil},
		"single, escaped":     {"mbus: 'nats://u:it''s''''@h:1' # it's\n", "mbus: '" + b + "' # it's\n", nil},
		"double quotes":       {"mbus: \"nats://u:p@h:1\"\n", "mbus: \"" + b + "\"\n", nil},
		"double, escaped":     {`mbus: "nats://u:\"\u0041@h:1" # "x"` + "\n", `mbus: "` + b + `" # "x"` + "\n", nil},
		"slashes in JSON":     {`{"a\/": "\/\\/\ud83d\ude00", "mbus" : "nats:\/\/h\/", "x": "\/"}`, `{"a\/": "\/\\/\ud83d\ude00", "mbus" : "` + b + `/", "x": "\/"}`, nil},
		"escapes in JSON":     {`{"a\/": "\/", "mbus" : "nats:\/\/\u0068"}`, `{"a\/": "\/", "mbus" : "` + b + `"}`, nil},
		"quoted, broken":      {"mbus: \"nats://u:p@\\\n  h:1\"\nx: 1\n", "mbus: \"" + b + "\"\nx: 1\n", nil},
		"next line":           {"mbus:\n    nats://u:p@h:1\nx: 1\n", "mbus:\n    " + b + "\nx: 1\n", nil},
		"literal block":       {"mbus: |-  # why\n\n    nats://u:p@h:1\n\nx: 1\n", "mbus: |-  # why\n\n    " + b + "\n\nx: 1\n", nil},
		"folded block":        {"mbus: >2\n  nats://u:p@h:1\n# end\n", "mbus: >2\n  " + b + "\n# end\n", nil},
		"CRLF":                {"x: 1\r\nmbus: nats://u:p@h:1\r\ny: |\r\n  z\r\n", "x: 1\r\nmbus: " + b + "\r\ny: |\r\n  z\r\n", nil},
		"CR":                  {"x: 1\rmbus: nats://u:p@h:1\ry: 2\r", "x: 1\rmbus: " + b + "\ry: 2\r", nil},
		"byte order mark":     {"\ufeffmbus: nats://u:p@h:1\n", "\ufeffmbus: " + b + "\n", nil},
		"other line ends":     {"x: a\u0085mbus: nats://u:p@h:1\u2028y: 1\n", "x: a\u0085mbus: " + b + "\u2028y: 1\n", nil},
		"characters":          {"{ü: ö€\U0001F600, mbus: nats://u:p@h:1, ß: ß}\n", "{ü: ö€\U0001F600, mbus: " + b + ", ß: ß}\n", nil},
		"tabs in JSON":        {"{\n\t\"mbus\":\t\"nats://u:p@h:1\"\n}\n", "{\n\t\"mbus\":\t\"" + b + "\"\n}\n", nil},
		"quoted and symbol":   {"'mbus': nats://u:p@h:1\n:nats_uri: nats://u:p@h:1\n", "'mbus': " + b + "\n:nats_uri: " + b + "\n", nil},
		"complex key":         {"? mbus\n: nats://u:p@h:1\n", "? mbus\n: " + b + "\n", nil},
		"nested":              {"a:\n- b: {service_mbus: nats://u:p@h:1}\n", "a:\n- b: {service_mbus: " + b + "}\n", nil},
		"anchor and tag":      {"mbus: &bus !!str # c\n  nats://u:p@h:1\nx: *bus\n", "mbus: &bus !!str # c\n  " + b + "\nx: *bus\n", nil},
		"alias":               {"x: &bus nats://u:p@h:1\nmbus: *bus\nnats_uri: *bus\n", "x: &bus " + b + "\nmbus: *bus\nnats_uri: *bus\n", nil},
		"merge":               {"b: &b {mbus: nats://u:p@h:1}\nc:\n  <<: *b\n", "b: &b {mbus: " + b + "}\nc:\n  <<: *b\n", nil},
		"itself":              {"&a mbus: &b\n  mbus: *b\n  uri: nats://u:p@h:1\n", "&a mbus: &b\n  mbus: *b\n  uri: " + b + "\n", nil},
		"block list":          {"mbus:\n  # first\n  - nats://u:p@h:1\n  - 'nats://u:p@i:1/' # x\n", "mbus:\n  # first\n  - " + b + "\n  - '" + c + "/' # x\n", nil},
		"flow list":           {"mbus: [ nats://u:p@h:1,\"nats://u:p@i:1\" , nats://j, nats://k ]\n", "mbus: [ " + b + ",\"" + c + "\" , " + a + ", " + b + " ]\n", nil},
		"list of one":         {"mbus: [nats://u:p@h:1]\n", "mbus: [" + b + "]\n", nil},
		"what is right stays": {"mbus: [nats://x:y@127.0.1.1:4222, nats://k:1]\n", "mbus: [" + a + ", " + b + "]\n", nil},
		"commas":              {"mbus: nats://u:p@h:1, nats://u:p@i:1/\n", "mbus: " + b + ", " + c + "/, " + a + "/\n", nil},
		"commas, as many":     {"mbus: \"nats://h,nats://i/,\n  nats://j\"\n", "mbus: \"" + b + "," + c + "/,\n  " + a + "\"\n", nil},
		"commas, to one":      {"mbus: nats://u:p@h:1,nats://i:1\n", "mbus: " + a + "\n", func(s *Settings) { s.Servers = s.Servers[:1] }},
		"commas in block":     {"mbus: |\n  nats://h,\n  nats://i\n", "mbus: |\n  " + b + ",\n  " + c + ",\n  " + a + "\n", nil},
		"map":                 {"mbus: {uri: nats://u:p@h:1, timeout: 5, user: me}\n", "mbus: {uri: " + b + ", timeout: 5, user: me}\n", nil},
		"documents":           {"mbus: nats://h\n---\nmbus: nats://h\n...\n---\n- nats_uri: nats://h\n", "mbus: " + b + "\n---\nmbus: " + b + "\n...\n---\n- nats_uri: " + b + "\n", nil},
		"comments only":       {"# mbus: nats://u:p@h:1\nx: 1 # mbus: nats://u:p@h:1\n", "=", nil},
		"another key":         {"xmbus: nats://u:p@h:1\nmbus_uri: nats://h\ntext: \"mbus: nats://h\"\nblock: |\n  mbus: nats://h\n", "=", nil},
		"null":                {"mbus:\nnats_uri: ~\nx: {mbus: , y: ''}\n", "=", nil},
		"empty":               {"", "=", nil},
		"as wanted":           {"mbus: " + c + "\n", "=", nil},
		"as wanted, escaped":  {`{"mbus": "` + strings.ReplaceAll(c, "/", `\/`) + "\"}", "=", nil},
		"scheme":              {"mbus: nats://u:p@h:1\n", "mbus: tls" + strings.TrimPrefix(b, "nats") + "\n", func(s *Settings) { s.Scheme = "tls" }},
		"address only":        {"mbus: nats://u:p@h:1\n", "mbus: nats://u:p@127.0.1.2:4222\n", func(s *Settings) { s.User, s.Password = "", "" }},
		"port stays":          {"mbus: nats://u:p@h:77/\n", "mbus: nats://" + userinfo + "example.com:77/\n", func(s *Settings) { s.Servers = []string{"example.com"} }},
		"user only":           {"mbus: nats://u:p@h:1\n", "mbus: nats://cf@127.0.1.2:4222\n", func(s *Settings) { s.Password = "" }},
		"IPv6":                {"mbus: nats://u:p@[::1]:77/\n", "mbus: nats://" + userinfo + "[fd00::1]:4222/\n", func(s *Settings) { s.Servers = []string{"[fd00::1]:4222"} }},
	} {
		t.Run(name, func(t *testing.T) {
			s := three
			if tc.settings != nil {
				tc.settings(&s)
			}
			want := tc.want
			if want == "=" {
				want = tc.source
			}
			got, changes, err := Rewrite([]byte(tc.source), s)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("got\n%q, want\n%q", got, want)
			}
			if (len(changes) > 0) != (want != tc.source) {
				t.Errorf("changes are %v", changes)
			}
			again, more, err := Rewrite(got, s)
			if err != nil || len(more) > 0 || string(again) != want {
				t.Errorf("a second run changes %v to %q, %v", more, again, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		source, want string
		settings     Settings
	}{
		"not YAML":          {"mbus: [nats://u:hunter2@h:1\n", "it is not valid YAML", three},
		"tabs":              {"a:\n\tmbus: nats://h\n", "it is not valid YAML", three},
		"not text":          {"mbus: nats://h\xff\n", "not UTF-8", three},
		"zero":              {"mbus: nats://h\x00\n", "it is not valid YAML", three},
		"too large":         {strings.Repeat("#", maxSize+1), "more than", three},
		"no URI":            {"x: 1\nmbus: hunter2\n", "line 2, mbus: its value is no URI", three},
		"template":          {"a: {mbus: <%= bus %>}\n", "line 1, a.mbus: its value is no URI", three},
		"without scheme":    {"mbus: nats://u:hunter2@h:1,i:1\n", "each needs its scheme", three},
		"in a list":         {"mbus: [nats://h, 7]\n", "line 1, mbus[1]: its value is no URI", three},
		"brackets in flow":  {"mbus: [nats://h:1]\n", "cannot write the new URIs in the form of the old ones (line 1, mbus[0])", Settings{Servers: []string{"[fd00::1]:4222"}}},
		"no servers":        {"mbus: nats://h\n", "no server", Settings{}},
		"port":              {"mbus: nats://h\n", "its port is not a number", Settings{Servers: []string{"h:x"}}},
		"port 0":            {"mbus: nats://h\n", "its port is not a number", Settings{Servers: []string{"h:0"}}},
		"host":              {"mbus: nats://h\n", "is not a server", Settings{Servers: []string{"u@h:1"}}},
		"newline in a host": {"mbus: nats://h\n", "is not a server", Settings{Servers: []string{"h\nx: 1"}}},
		"scheme":            {"mbus: nats://h\n", "is no scheme", Settings{Servers: []string{"h"}, Scheme: "a:b"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, changes, err := Rewrite([]byte(tc.source), tc.settings)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %q %v, error %v, want one with %q", got, changes, err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows what may be a password: %v", err)
			}
		})
	}
}

func TestChangesShowNoPassword(t *testing.T) {
	source := "a:\n  mbus: nats://u:hunter2@h:1/hunter2\n  nats_uri: nats://hunter2@h:1, nats://h\n"
	_, changes, err := Rewrite([]byte(source), three)
	if err != nil {
		t.Fatal(err)
	}
	want := "[line 2, a.mbus: nats://u:***@h:1/... -> nats://cf:***@127.0.1.2:4222/... " +
		"line 3, a.nats_uri: nats://***@h:1, nats://h -> nats://cf:***@127.0.1.2:4222, nats://cf:***@127.0.1.3:14222, nats://cf:***@127.0.1.1:4222]"
	if got := fmt.Sprint(changes); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestChoiceIsSpreadAndStays(t *testing.T) {
	seen := map[string]bool{}
	for choice := range 3 {
		s := three
		s.Choice = choice
		got, _, err := Rewrite([]byte("mbus: nats://u:p@h:1\n"), s)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(got)] = true
		// The others leave and come back: this one keeps its server.
		s.Servers = append([]string{"127.0.1.9:4222", s.Servers[choice]}, s.Servers...)
		again, _, err := Rewrite(got, s)
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("choice %d moves from %s to %s, %v", choice, got, again, err)
		}
	}
	if len(seen) != 3 {
		t.Errorf("three instances share %d of three servers", len(seen))
	}
}

// drawn is a file of known parts: text that must stay, and URIs.
type drawn struct{ parts []part }

type part struct {
	text string
	uri  bool
}

func drawFile(t *rapid.T) (d drawn) {
	text := func(s string) { d.parts = append(d.parts, part{text: s}) }
	eol := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end of line")
	comment := func() string {
		return rapid.SampledFrom([]string{"", " # mbus: nats://u:p@old:1", "  # ünï"}).Draw(t, "comment")
	}
	old := rapid.Custom(func(t *rapid.T) string {
		return "nats://" + rapid.StringMatching(`([a-z]{1,4}(:[a-z0-9%._~-]{0,6})?@)?[a-z0-9.]{1,8}(:[0-9]{1,4})?/?`).Draw(t, "URI")
	})
	for i := range rapid.IntRange(1, 6).Draw(t, "lines") {
		key := rapid.SampledFrom([]string{"mbus", "service_mbus", "nats_uri"}).Draw(t, "key")
		quote := rapid.SampledFrom([]string{"", "'", `"`}).Draw(t, "quote")
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			text(fmt.Sprintf("other%d: %snats://keep:me@h:1%s%s%s", i, quote, quote, comment(), eol))
		case 1:
			text(fmt.Sprintf("# %s: nats://keep:me@h:1%s", key, eol))
		case 2:
			text(fmt.Sprintf("n%d:%s%s  %s:  &x%d %s", i, comment(), eol, key, i, quote))
			d.parts = append(d.parts, part{old.Draw(t, "old"), true})
			text(quote + comment() + eol)
		case 3:
			text(fmt.Sprintf("ü%d: {é: 1, %s: %s", i, key, quote))
			d.parts = append(d.parts, part{old.Draw(t, "old"), true})
			text(quote + ", x: [1]}" + comment() + eol)
		case 4:
			text(fmt.Sprintf("l%d:%s- %s: |%s%s    ", i, eol, key, comment(), eol))
			d.parts = append(d.parts, part{old.Draw(t, "old"), true})
			text(eol + eol)
		case 5:
			text("---" + comment() + eol)
		case 6:
			text(fmt.Sprintf("j%d: {\"%s\":\"", i, key))
			d.parts = append(d.parts, part{old.Draw(t, "old"), true})
			text("\",\"y\":null}" + eol)
		}
	}
	return d
}

func (d drawn) source(uri func(string) string) string {
	var b strings.Builder
	for _, p := range d.parts {
		if p.uri {
			b.WriteString(uri(p.text))
		} else {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

// TestOnlyURIsChange: whatever stands around them, exactly the URIs' bytes
// differ afterwards, and nothing after a second run.
func TestOnlyURIsChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawFile(t)
		s := Settings{
			Servers: rapid.SliceOfN(rapid.StringMatching(`[a-z][a-z0-9.-]{0,8}:[1-9][0-9]{0,3}`), 1, 1).Draw(t, "servers"),
			User:    rapid.String().Draw(t, "user"), Password: rapid.StringN(1, -1, -1).Draw(t, "password"),
			Choice: rapid.Int().Draw(t, "choice"),
		}
		source := d.source(func(old string) string { return old })
		want := d.source(func(old string) string {
			slash := ""
			if strings.HasSuffix(old, "/") {
				slash = "/"
			}
			return "nats://" + escape(s.User) + ":" + escape(s.Password) + "@" + s.Servers[0] + slash
		})
		got, _, err := Rewrite([]byte(source), s)
		if err != nil {
			t.Fatalf("%v in\n%s", err, source)
		}
		if string(got) != want {
			t.Fatalf("from\n%q got\n%q, want\n%q", source, got, want)
		}
		again, more, err := Rewrite(got, s)
		if err != nil || len(more) > 0 || !bytes.Equal(again, got) {
			t.Fatalf("a second run changes %v, %v", more, err)
		}
	})
}

// TestListsTakeAllServers: a list or a line of URIs holds as many of the servers
// as fit, each as often as any other give or take one, and keeps them.
func TestListsTakeAllServers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-d]:[1-9]`), 1, 4, rapid.ID).Draw(t, "servers")
		old := rapid.SliceOfN(rapid.StringMatching(`nats://[a-d]:[1-9]`), 1, 6).Draw(t, "old")
		s := Settings{Servers: servers, Choice: rapid.IntRange(-3, 9).Draw(t, "choice")}
		comma := rapid.Bool().Draw(t, "comma")
		source := "mbus:\n- " + strings.Join(old, "\n- ") + "\n"
		if comma {
			source = "mbus: " + strings.Join(old, ",") + "\n"
		}
		got, _, err := Rewrite([]byte(source), s)
		if err != nil {
			t.Fatal(err)
		}
		seen, total := map[string]int{}, 0
		for _, x := range servers {
			if n := strings.Count(string(got), "//"+x); n > 0 {
				seen[x] = n
				total += n
			}
		}
		if comma && len(old) > 1 {
			if len(seen) != len(servers) || total != len(servers) {
				t.Fatalf("%q of %q, servers %v", got, source, servers)
			}
		} else if len(seen) != min(len(servers), len(old)) || total != len(old) {
			t.Fatalf("%q of %q, servers %v", got, source, servers)
		}
		again, more, err := Rewrite(got, s)
		if err != nil || len(more) > 0 || !bytes.Equal(again, got) {
			t.Fatalf("a second run changes %q to %q, %v", got, again, err)
		}
	})
}

// FuzzRewrite: no file, however odd, ends the agent or is damaged. What is
// rewritten reads as before but for the bus, and a second run changes nothing.
func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		"mbus: nats://u:p@h:1\n", "a: &a\n  mbus: [*a, nats://h]\n", "mbus: !!binary |\n  bmF0czovL2g=\n",
		"{\"mbus\":\"nats:\\/\\/h\"}", "mbus: 'nats://''@h'", "? [mbus]\n: nats://h\n", "mbus: \"nats://h,\\\n nats://i\"\n",
		"%TAG ! tag:x,2000:\n--- !y\nmbus: !z nats://h\n", "- - - nats_uri: >-\n     nats://h\n", "mbus: &a nats://h\nnats_uri: *a\r",
		"\ufeff\n# x\n---\nmbus:\n  nats://h\n", "mbus: nats://h,\n nats://i #x\n", "<<: {mbus: nats://h}\n", "mbus: {a: {b: nats://h}}",
	} {
		f.Add([]byte(seed), 1)
	}
	for _, name := range []string{"all.yml", "mysql_worker.yml"} {
		data, err := os.ReadFile("testdata/devbox/config/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, 2)
	}
	f.Fuzz(func(t *testing.T, source []byte, choice int) {
		before := bytes.Clone(source)
		s := three
		s.Choice = choice
		got, changes, err := Rewrite(source, s)
		if !bytes.Equal(source, before) {
			t.Fatal("the source was written to")
		}
		if err != nil {
			return
		}
		if len(changes) == 0 && !bytes.Equal(got, source) {
			t.Fatalf("%q became %q without a change", source, got)
		}
		again, more, err := Rewrite(got, s)
		if err != nil || len(more) > 0 || !bytes.Equal(again, got) {
			t.Fatalf("a second run changes %v from %q to %q, %v", more, got, again, err)
		}
		var a, b any
		if errA, errB := yaml.Unmarshal(source, &a), yaml.Unmarshal(got, &b); errA == nil && errB != nil {
			t.Fatalf("%q could be read, %q cannot: %v", source, got, errB)
		}
	})
}

func TestParserFaultsAreErrors(t *testing.T) {
	// Deeper than the parser allows.
	_, _, err := Rewrite([]byte(strings.Repeat("[", 20_000)), three)
	if err == nil || errors.Is(err, errNotFound) {
		t.Fatalf("got %v", err)
	}
}
