package examples

import (
	"io/fs"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```$|^    .*?$")
	codeSpan  = regexp.MustCompile("`[^`\n]*`")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
)

// documents returns the text of each page of the repository by its path.
func documents(t *testing.T, repository fs.FS) map[string]string {
	t.Helper()
	pages := map[string]string{}
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains([]string{"bin", "dist", "testdata"}, d.Name()) || len(name) > 1 && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case path.Ext(name) != ".md":
			return nil
		}
		text, err := fs.ReadFile(repository, name)
		pages[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// anchors returns the anchors that a forge gives to a page's headings.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return out
}

// brokenLinks returns the relative links whose file or anchor is not there.
func brokenLinks(repository fs.FS, pages map[string]string) []string {
	var broken []string
	for page, text := range pages {
		text = codeBlock.ReplaceAllString(text, "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, err := url.Parse(m[1])
			if err == nil && target.Scheme != "" {
				continue
			}
			file := page
			if err == nil && target.Path != "" {
				file = path.Join(path.Dir(page), target.Path)
			}
			linked, isPage := pages[file]
			_, missing := fs.Stat(repository, file)
			if err != nil || missing != nil || target.Fragment != "" && (!isPage || !slices.Contains(anchors(linked), target.Fragment)) {
				broken = append(broken, page+": "+m[1])
			}
		}
	}
	slices.Sort(broken)
	return broken
}

func TestLinks(t *testing.T) {
	repository := os.DirFS("..")
	pages := documents(t, repository)
	if len(pages) < 20 {
		t.Fatalf("only %d pages found", len(pages))
	}
	for _, b := range brokenLinks(repository, pages) {
		t.Errorf("%s leads nowhere", b)
	}
}

// One subject a page, which is read in two minutes. Code, and the protocol, which
// is a reference, do not count. The map of all may be twice as long.
func TestPagesAreShort(t *testing.T) {
	for page, text := range documents(t, os.DirFS("..")) {
		most := 400
		if page == "ARCHITECTURE.md" {
			most = 900
		} else if path.Dir(page) != "docs" || page == "docs/protocol.md" {
			continue
		}
		prose := codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(text, ""), "code")
		words := strings.FieldsFunc(prose, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("|-", r) })
		if len(words) > most {
			t.Errorf("%s has %d words, want at most %d: cut it, or make two pages of it", page, len(words), most)
		}
	}
}

func TestLinkChecker(t *testing.T) {
	pages := map[string]string{
		"a.md":      "# One two\n[x](docs/b.md#three-c) [y](docs) [z](#one-two) [w](https://example.com/x)\n\n    [code](nowhere)\n",
		"docs/b.md": "## Three, `c`\n[gone](../c.md) [no anchor](../a.md#two) [own](#no)\n",
	}
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/docs", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range pages {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"docs/b.md: #no", "docs/b.md: ../a.md#two", "docs/b.md: ../c.md"}
	if got := brokenLinks(os.DirFS(dir), pages); !slices.Equal(got, want) {
		t.Errorf("broken: %q, want %q", got, want)
	}
}

// SECURITY.md names the tests that hold each promise, ATTACKS.md those that hold each
// attack: they exist.
func TestSecurityNamesRealTests(t *testing.T) {
	repository := os.DirFS("..")
	declared := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := fs.ReadFile(repository, name)
		for _, m := range declaration.FindAllSubmatch(source, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"SECURITY.md", "examples/ATTACKS.md"} {
		text, err := fs.ReadFile(repository, page)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(text), -1)
		if len(named) < 20 {
			t.Errorf("%s names only %d tests", page, len(named))
		}
		for _, m := range named {
			if !declared[m[1]] {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
}
