package manifests

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

var update = flag.Bool("update", false, "write the golden files of testdata/invalid")

// loadFile loads a manifest of testdata with the jobs there.
func loadFile(t testing.TB, path string) *Manifest {
	t.Helper()
	m, diags := Load(path, Options{Jobs: os.DirFS("testdata/jobs")})
	if len(diags) > 0 {
		t.Fatalf("%s:\n%s", path, shown(t, m.Files, diags))
	}
	return m
}

// loadText loads a manifest from its text.
func loadText(t testing.TB, text string) (*Manifest, hcl.Diagnostics) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, Options{Jobs: os.DirFS("testdata/jobs")})
}

// shown is what a user sees of diagnostics.
func shown(t testing.TB, files map[string]*hcl.File, diags hcl.Diagnostics) string {
	t.Helper()
	var out bytes.Buffer
	if err := hcl.NewDiagnosticTextWriter(&out, files, 0, false).WriteDiagnostics(diags); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func entries(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files at %s (%v)", pattern, err)
	}
	return paths
}

func TestValid(t *testing.T) {
	for _, path := range entries(t, "testdata/valid/*") {
		t.Run(filepath.Base(path), func(t *testing.T) { loadFile(t, path) })
	}
	for _, path := range entries(t, "testdata/jobs/*") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			job, diags := LoadJob(os.DirFS("testdata/jobs"), filepath.Base(path))
			if len(diags) > 0 {
				t.Fatal(shown(t, job.Files, diags))
			}
		})
	}
}

var expectation = regexp.MustCompile(`(error|warning): ([^;]+)`)

// expected reads what the comments of a file's lines say will be reported there.
func expected(t *testing.T, path string) []string {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for i, line := range strings.Split(string(source), "\n") {
		if _, comment, found := strings.Cut(line, "#"); found {
			for _, m := range expectation.FindAllStringSubmatch(comment, -1) {
				list = append(list, fmt.Sprintf("%d: %s: %s", i+1, m[1], strings.TrimSpace(m[2])))
			}
		}
	}
	slices.Sort(list)
	return list
}

// reported puts the diagnostics about one file in the form of expected.
func reported(diags hcl.Diagnostics, name string) []string {
	var list []string
	for _, d := range diags {
		line := 0
		if d.Subject != nil {
			if d.Subject.Filename != name {
				continue
			}
			line = d.Subject.Start.Line
		}
		severity := "error"
		if d.Severity == hcl.DiagWarning {
			severity = "warning"
		}
		list = append(list, fmt.Sprintf("%d: %s: %s", line, severity, d.Summary))
	}
	slices.Sort(list)
	return list
}

func compare(t *testing.T, files map[string]*hcl.File, diags hcl.Diagnostics, path, name string) {
	t.Helper()
	want, got := expected(t, path), reported(diags, name)
	if !slices.Equal(want, got) {
		t.Errorf("%s:\nwant %s\ngot  %s\n%s", path, strings.Join(want, "\n     "), strings.Join(got, "\n     "), shown(t, files, diags))
	}
	for _, d := range diags {
		if d.Detail == "" {
			t.Errorf("%s: %q does not say what to do", path, d.Summary)
		}
		if d.Subject != nil && files[d.Subject.Filename] == nil {
			t.Errorf("%s: no source for the excerpt of %s", path, d.Subject.Filename)
		}
	}
}

// What is expected stands on its line of the file, and nothing else is
// reported: all problems at once, and none because of another.
func TestErrors(t *testing.T) {
	for _, path := range entries(t, "testdata/errors/*.hcl") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, diags := Load(path, Options{Jobs: os.DirFS("testdata/jobs")})
			compare(t, m.Files, diags, path, path)
		})
	}
	for _, path := range entries(t, "testdata/errors/jobs/*") {
		name := filepath.Base(path)
		t.Run("job "+name, func(t *testing.T) {
			job, diags := LoadJob(os.DirFS("testdata/errors/jobs"), name)
			compare(t, job.Files, diags, path+"/job.hcl", name+"/job.hcl")
		})
	}
}
