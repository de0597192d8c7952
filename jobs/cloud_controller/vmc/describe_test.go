package vmc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPushed(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for dir, text := range map[string]string{
		one: "applications: [{name: a, url: '${name}.${target-base}', urls: [fixed.x], env: {A: 1, B: 2}}]",
		two: "applications: [{name: a}, {name: b, path: sub}]",
	} {
		if err := os.WriteFile(filepath.Join(dir, "manifest.yml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	none := t.TempDir()
	program := filepath.Join(none, "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		args  []string
		flags pushFlags
		set   []string
		want  string
	}{
		{"as it stands", nil, pushFlags{path: one}, nil, "a at one: [a.dom fixed.x] [A=1 B=2]"},
		{"flags win", nil, pushFlags{path: one, urls: []string{"u.x"}, env: []string{"A=3"}}, []string{"url"}, "a at one: [u.x] [B=2 A=3]"},
		{"another name", []string{"c"}, pushFlags{path: one}, nil, "c at one: [c.dom] [A=1 B=2]"},
		{"all of two", nil, pushFlags{path: two}, nil, "a at two: [] [], b at two/sub: [] []"},
		{"one of two", []string{"b"}, pushFlags{path: two}, nil, "b at two/sub: [] []"},
		{"none of two", []string{"c"}, pushFlags{path: two}, nil, "error: the manifest has no application c"},
		{"a URL for two", nil, pushFlags{path: two, urls: []string{"x"}}, []string{"url"}, "error: --url is for one app"},
		{"no manifest", []string{"a"}, pushFlags{path: none}, nil, "a at none: [] []"},
		{"no manifest, no name", nil, pushFlags{path: none}, nil, "error: the app has no name"},
		{"a program", []string{"a"}, pushFlags{path: program}, nil, "a at none/program: [] []"},
		{"bad variable", []string{"a"}, pushFlags{path: none, env: []string{"A"}}, nil, `error: "A" is not a variable`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			apps, _, err := pushed(tc.args, tc.flags, func(flag string) bool { return slices.Contains(tc.set, flag) })
			var all []string
			for _, a := range apps {
				urls, err := hosts(a, "dom")
				if err != nil {
					t.Fatal(err)
				}
				at := strings.NewReplacer(one, "one", two, "two", none, "none").Replace(filepath.Clean(a.Path))
				all = append(all, fmt.Sprintf("%s at %s: %v %v", a.Name, at, urls, a.Env))
			}
			got := strings.Join(all, ", ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if !strings.HasPrefix(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestHostLabel(t *testing.T) {
	for name, want := range map[string]string{
		"hello": "hello", "My_App": "my-app", "_lead": "lead", "a-": "a",
		strings.Repeat("x", 70): strings.Repeat("x", 63),
	} {
		if got := hostLabel(name); got != want {
			t.Errorf("the label of %s is %s, want %s", name, got, want)
		}
	}
}
