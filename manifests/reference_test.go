package manifests

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashicorp/hcl/v2"
)

// schema describes what may stand in a block.
type schema struct {
	arguments, required, blocks []string // sorted
	free                        bool     // any argument
}

// probe is an argument that no block has: the decoder's answer to it lists
// those that there are.
const probe = "zzzzzzzz"

var (
	listed       = regexp.MustCompile(`There is: ([a-z0-9_, ]+)\.`)
	requiredName = regexp.MustCompile(`The argument "([a-z0-9_]+)" is required`)
)

func words(re *regexp.Regexp, text string) []string {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	list := strings.Split(m[1], ", ")
	slices.Sort(list)
	return list
}

// explorer asks the decoder of manifests, or that of jobs, for its schema.
type explorer struct {
	t      *testing.T
	decode func(source string) hcl.Diagnostics
	found  map[string]schema // by path: "group/job"
}

// labelled are the labels of blocks whose schema depends on it; any other block
// gets "x", or none if it takes none.
var labelled = map[string][]string{"check": {"http", "tcp", "exec"}, "hook": {"pre_start", "errand"}, "instance": {"0"}}

// explore asks for one block and those in it. headers are the blocks around it,
// as they are written.
func (e *explorer) explore(path string, headers []string) {
	inside := func(text string) string {
		for i := len(headers) - 1; i >= 0; i-- {
			text = headers[i] + " {\n" + text + "\n}"
		}
		return text
	}
	s := schema{free: true}
	for _, d := range append(e.decode(inside(probe+" = 1")), e.decode(inside(probe+" {}"))...) {
		if d.Subject != nil && d.Subject.Start.Line == len(headers) { // the block's own, not of those around it
			s.required = append(s.required, words(requiredName, d.Detail)...)
		}
		if !strings.Contains(d.Detail, `"`+probe+`"`) {
			continue
		}
		switch d.Summary {
		case "Unsupported argument":
			s.free, s.arguments = false, words(listed, d.Detail)
		case "Unsupported block type":
			s.blocks = words(listed, d.Detail)
		}
	}
	old := e.found[path]
	for _, list := range []struct{ to, from *[]string }{{&s.arguments, &old.arguments}, {&s.blocks, &old.blocks}} {
		*list.to = slices.Concat(*list.to, *list.from)
		slices.Sort(*list.to)
		*list.to = slices.Compact(*list.to)
	}
	s.required = append(s.required, old.required...)
	e.found[path] = s
	for _, block := range s.blocks {
		labels := labelled[block]
		if labels == nil {
			labels = []string{"x"}
		}
		for _, label := range labels {
			header := fmt.Sprintf("%s %q", block, label)
			for _, d := range e.decode(inside(header + " {}")) {
				if strings.HasPrefix(d.Summary, "Extraneous label for "+block) {
					header = block
				}
			}
			e.explore(strings.TrimPrefix(path+"/"+block, "/"), append(slices.Clone(headers), header))
		}
	}
}

func explored(t *testing.T) map[string]map[string]schema {
	manifest := &explorer{t: t, found: map[string]schema{}, decode: func(source string) hcl.Diagnostics {
		_, diags := loadWith(source, Options{})
		return diags
	}}
	manifest.explore("", nil)
	job := &explorer{t: t, found: map[string]schema{}, decode: func(source string) hcl.Diagnostics {
		_, diags := LoadJob(fstest.MapFS{"x/job.hcl": {Data: []byte(source)}}, "x")
		return diags
	}}
	job.explore("", []string{})
	return map[string]map[string]schema{"Manifest": manifest.found, "job.hcl": job.found}
}

// documented reads the page: the rows of every block by its path, and the
// functions.
func documented(t *testing.T) (blocks map[string]map[string]map[string][]string, functions []string) {
	t.Helper()
	page, err := os.ReadFile("REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks = map[string]map[string]map[string][]string{}
	quoted := regexp.MustCompile("`([a-z0-9_.]+)`")
	section, path := "", ""
	for _, line := range strings.Split(string(page), "\n") {
		switch cells := strings.Split(line, " | "); {
		case strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
			blocks[section] = map[string]map[string][]string{}
		case strings.HasPrefix(line, "### "):
			var parts []string
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				parts = append(parts, m[1])
			}
			path = strings.Join(parts, "/")
			if blocks[section][path] != nil && section != "Functions" {
				t.Errorf("%s: %q is there twice", section, path)
			}
			blocks[section][path] = map[string][]string{}
		case strings.HasPrefix(line, "| `") && section == "Functions":
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "| `"), "(")
			functions = append(functions, name)
		case strings.HasPrefix(line, "| `"):
			name := strings.Trim(cells[0], "| `")
			if len(cells) != 4 || slices.ContainsFunc(cells, func(c string) bool { return strings.Trim(c, " |") == "" }) {
				t.Errorf("%s, %s: %s lacks its type, default or meaning", section, path, name)
				continue
			}
			blocks[section][path][name] = cells[1:]
		}
	}
	return blocks, functions
}

// The page has just what the decoder accepts.
func TestReference(t *testing.T) {
	pages, functions := documented(t)
	for section, found := range explored(t) {
		page := pages[section]
		for path := range page {
			if _, ok := found[path]; !ok {
				t.Errorf("%s: there is no block %s", section, path)
			}
		}
		for path, s := range found {
			rows, ok := page[path]
			if !ok {
				t.Errorf("%s: the block %s is missing", section, path)
				continue
			}
			all := slices.Concat(s.arguments, s.blocks)
			for name := range rows {
				if !slices.Contains(all, name) {
					t.Errorf("%s: %s has no %s", section, path, name)
				}
			}
			for _, name := range all {
				row := rows[name]
				if row == nil {
					t.Errorf("%s: %s of %s is missing", section, name, path)
					continue
				}
				if isBlock := row[0] == "block"; isBlock != slices.Contains(s.blocks, name) {
					t.Errorf("%s: is %s of %s a block or not?", section, name, path)
				}
				if needed := slices.Contains(s.required, name); needed && !strings.HasPrefix(row[1], "required") {
					t.Errorf("%s: %s of %s is required", section, name, path)
				} else if !needed && row[1] == "required" && path != "" {
					t.Errorf("%s: %s of %s is not required", section, name, path)
				}
			}
		}
	}
	slices.Sort(functions)
	if want := slices.Sorted(maps.Keys(Functions())); !slices.Equal(functions, want) {
		t.Errorf("the functions are\n%v, want\n%v", functions, want)
	}
}
