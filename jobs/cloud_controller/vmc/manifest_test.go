package vmc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestManifest(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"a list", "applications:\n- name: a\n  url: a.x\n  memory: 64M\n  instances: 2\n- {name: b, path: sub, mem: 64, env: {B: 1, A: yes}}",
			"a . [a.x]  64M 2 [] []; b sub []  64 - [A=yes B=1] []"},
		{"the original's map", "applications:\n  ./x:\n    name: a\n    framework:\n      name: node\n      info: {mem: 64M, exec: node}\n    services: {cache: {vendor: redis}, db: {}}\n",
			"a x [] node  - [] [cache db]"},
		{"one app", "name: a\nframework: rack\nenv: [A=1, B=x=y]\nurls: [a, b]", "a . [a b] rack  - [A=1 B=x=y] []"},
		{"unknown key", "applications:\n- name: a\n  memroy: 64M\n", `error: [3:3] unknown field "memroy"`},
		{"no name", "applications:\n- memory: 64M\n", "error: an application has no name"},
		{"no applications", "applications: []", "error: it has no applications"},
		{"empty", "", "error: it has no applications"},
		{"twice", "applications: [{name: a}, {name: a}]", "error: application a is there twice"},
		{"below zero", "applications: [{name: a, instances: -1}]", "error: application a: instances is below 0"},
		{"bad env", "applications: [{name: a, env: [A]}]", `"A" is no variable`},
		{"not YAML", "applications: [", "error: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "manifest.yml")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			apps, err := readManifest(dir)
			var all []string
			for _, a := range apps {
				rel, err := filepath.Rel(dir, a.Path)
				if err != nil {
					t.Fatal(err)
				}
				urls, err := hosts(a, "x", false)
				if err != nil {
					t.Fatal(err)
				}
				instances := "-"
				if a.Instances != nil {
					instances = fmt.Sprint(*a.Instances)
				}
				all = append(all, fmt.Sprintf("%s %s %v %s %s %s %v %v", a.Name, rel, urls, a.Framework, a.Memory+a.Mem, instances, a.Env, a.Services))
			}
			got := strings.Join(all, "; ")
			if err != nil {
				got = "error: " + strings.TrimPrefix(err.Error(), "cannot use the manifest "+file+": ")
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("read as\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
	if apps, err := readManifest(t.TempDir()); apps != nil || err != nil {
		t.Errorf("without a manifest: %v, %v", apps, err)
	}
}

// FuzzManifest: no manifest makes vmc panic, and what is accepted has names.
func FuzzManifest(f *testing.F) {
	f.Add([]byte("applications:\n- name: a\n  env: {A: 1}\n"))
	f.Add([]byte("applications:\n  ./x: {name: a, framework: {name: node}, services: {a: {}}}\n"))
	f.Add([]byte("name: a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		apps, err := parseManifest(data)
		for _, a := range apps {
			if err == nil && a.Name == "" {
				t.Errorf("an app without a name: %+v", a)
			}
		}
	})
}

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
		{"no manifest, no name", nil, pushFlags{path: none}, nil, "error: what is the app's name?"},
		{"a program", []string{"a"}, pushFlags{path: program}, nil, "a at none/program: [] []"},
		{"bad variable", []string{"a"}, pushFlags{path: none, env: []string{"A"}}, nil, `error: "A" is no variable`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			apps, err := pushed(tc.args, tc.flags, func(flag string) bool { return slices.Contains(tc.set, flag) })
			var all []string
			for _, a := range apps {
				urls, err := hosts(a, "dom", false)
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
