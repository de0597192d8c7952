package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shown is an app on a line, for comparing.
func shown(a App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", a.Name)
	add := func(name string, value any, has bool) {
		if has {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	add("path", a.Path, a.Path != "" && a.Path != ".")
	add("urls", a.URLs, a.URLs != nil)
	add("no-route", a.NoRoute, a.NoRoute)
	add("framework", a.Framework, a.Framework != "")
	add("runtime", a.Runtime, a.Runtime != "")
	add("command", a.Command, a.Command != "")
	add("memory", a.Memory, a.Memory != "")
	add("disk", a.Disk, a.Disk != "")
	if a.Instances != nil {
		add("instances", *a.Instances, true)
	}
	add("env", a.Env, a.Env != nil)
	add("services", a.Services, a.Services != nil)
	add("health", a.Health, a.Health != Health{})
	add("after", a.After, a.After != nil)
	return b.String()
}

func TestParse(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"a list", "applications:\n- name: a\n  url: a.x\n  memory: 64M\n  instances: 2\n- {name: b, path: sub, mem: 64, env: {B: 1, A: yes}}",
			"a urls=[a.x] memory=64M instances=2; b path=sub memory=64 env=[A=yes B=1]"},
		{"the original's map", "applications:\n  ./x:\n    name: a\n    framework:\n      name: node\n      info: {mem: 64M, exec: node}\n    services: {cache: {vendor: redis}, db: {}}\n",
			"a path=./x framework=node services=[cache db]"},
		{"one app", "name: a\nframework: rack\nenv: [A=1, B=x=y]\nurls: [a, b]", "a urls=[a b] framework=rack env=[A=1 B=x=y]"},
		{"anchors", "@anchors.yml", "hello memory=64M instances=1"},
		{"shared keys", "@shared-top-level.yml", "hello path=target/web urls=[${name}.${target-base}] framework=node memory=64M; hello-two path=target/web urls=[${name}.${target-base}] framework=node memory=128M"},
		{"depends-on", "@depends-on.yml", "receiver path=./receiver; sender path=./sender after=[receiver]"},
		{"byte order mark", "@bom.yml", "hello"},
		{"list of URLs", "@url-list.yml", "hello urls=[a.cf.localhost b.cf.localhost]"},
		{"carriage returns", "applications:\r\n- name: a\r\n  env:\r\n    A: x\r\n", "a env=[A=x]"},
		{"merged lists of maps", "a: &a {memory: 1G, disk: 1G}\nb: &b {memory: 2G, runtime: node}\napplications:\n- name: x\n  <<: [*a, *b]\n  disk: 3G", "x runtime=node memory=1G disk=3G"},
		{"shared variables and services are joined", "env: {A: 1, B: 2}\nservices: [s]\napplications:\n- {name: x, env: {B: 3}, services: [t]}", "x env=[A=1 B=3] services=[s t]"},
		{"an app's own word for a shared key", "memory: 1G\nurl: a.x\napplications:\n- {name: x, mem: 2G, no-route: true}", "x no-route=true memory=2G"},
		{"keys of later versions", "applications:\n- name: x\n  disk_quota: 1G\n  timeout: 180\n  health-check-type: http\n  health-check-http-endpoint: /ready\n  routes: [{route: a.x}, b.x]\n  services: [{name: db, parameters: {a: 1}}]",
			"x urls=[a.x b.x] disk=1G services=[db] health={http /ready 3m0s}"},
		{"the process that serves, of several", "applications:\n- name: x\n  memory: 1G\n  sidecars: [{name: s}]\n  processes:\n  - {type: worker, command: w}\n  - {type: web, memory: 64M, instances: 2, timeout: 5}", "x memory=64M instances=2 health={  5s}"},
		{"a process without a type", "applications: [{name: a, processes: [{memory: 1G}]}]", "error: [1:39] processes: a process has a type"},
		{"an unknown key of a process", "applications: [{name: a, processes: [{type: web, memroy: 1G}]}]", `error: [1:50] unknown field "memroy"`},
		{"an endpoint alone means http", "applications: [{name: x, health-check-http-endpoint: /up}]", "x health={http /up 0s}"},
		{"health as a type", "applications: [{name: x, health: process}]", "x health={process  0s}"},
		{"health as a page", "applications: [{name: x, health: /up, timeout: 90}]", "x health={http /up 1m30s}"},
		{"health as a map", "applications: [{name: x, health: {type: http, endpoint: /up, timeout: 2m}}]", "x health={http /up 2m0s}"},
		{"health as a map without a type", "applications: [{name: x, health: {path: /up}}, {name: y, health: {file: tmp/ready}}]", "x health={http /up 0s}; y health={file tmp/ready 0s}"},
		{"bad health in one key", "applications: [{name: a, health: tcp}]", `want port, http, process or file, have "tcp"`},
		{"unknown key of health", "applications: [{name: a, health: {typ: http}}]", `unknown field "typ"`},
		{"none is process", "applications: [{name: x, health-check-type: none}]", "x health={process  0s}"},
		{"hosts and domains", "domain: x.org\napplications:\n- {name: a, host: h}\n- {name: b}\n- {name: c, hosts: [i, j], domains: [d.org, e.org]}\n- {name: d, no-hostname: true}\n- {name: e, url: f.g}",
			"a urls=[h.x.org]; b urls=[${name}.x.org]; c urls=[i.d.org j.d.org i.e.org j.e.org]; d urls=[x.org]; e urls=[f.g]"},
		{"no URL in the original's words", "applications: [{name: a, url: none}]", "a no-route=true"},
		{"a name that is a number", "applications: [{name: 007}]", "007"},
		{"text that is tagged", "applications: [{name: a, env: {A: !!str 1.10, B: !!int 0123}}]", "a env=[A=1.10 B=0123]"},

		{"unknown key", "applications:\n- name: a\n  memroy: 64M\n", `error: [3:3] unknown field "memroy"`},
		{"unknown key of a map's app", "applications:\n  ./x:\n    name: a\n    memroy: 64M\n", `error: [4:5] unknown field "memroy"`},
		{"unknown shared key", "memroy: 64M\napplications: [{name: a}]\n", `error: [1:1] unknown field "memroy"`},
		{"no name", "applications:\n- memory: 64M\n", "error: an application has no name"},
		{"no applications", "applications: []", "error: it has no applications"},
		{"empty", "", "error: it has no applications"},
		{"a list at the top", "- name: a", "error: [1:1] a manifest is a map"},
		{"twice", "applications: [{name: a}, {name: a}]", "error: application a is defined twice"},
		{"a key twice", "applications: [{name: a, name: b}]", "error: "},
		{"below zero", "applications: [{name: a, instances: -1}]", "error: application a: instances is below 0"},
		{"half an instance", "applications: [{name: a, instances: 1.5}]", `error: [1:26] instances: want a number, have "1.5"`},
		{"bad env", "applications: [{name: a, env: [A]}]", `"A" is not a variable`},
		{"a document as a value", "applications: [{name: a, env: {A: {b: c}}}]", "write a document as text, in quotes"},
		{"bad time", "applications: [{name: a, timeout: soon}]", `"soon" is not a time`},
		{"bad health", "applications: [{name: a, health-check-type: tcp}]", `want port, http, process or file, have "tcp"`},
		{"depends on nothing", "applications: [{name: a, depends-on: b}]", `application a depends on "b", which does not exist`},
		{"a circle", "applications: [{name: a, depends-on: b}, {name: b, depends-on: a}]", "depend on each other in a circle"},
		{"no such anchor", "applications: [{name: *a}]", "error: "},
		{"refers to itself", "x: &x [*x]\napplications: [{name: a}]", "refers to itself"},
		{"two documents", "applications: [{name: a}]\n---\napplications: [{name: b}]", "a second document begins here"},
		{"UTF-16", "\xff\xfen\x00", "UTF-16"},
		{"not YAML", "applications: [", "error: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := []byte(tc.text)
			if name, ok := strings.CutPrefix(tc.text, "@"); ok {
				var err error
				if data, err = os.ReadFile(filepath.Join("testdata", name)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := Parse(data)
			var all []string
			for _, a := range m.Apps {
				all = append(all, shown(a))
			}
			got := strings.Join(all, "; ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if strings.HasPrefix(tc.want, "error") && !strings.HasPrefix(got, tc.want) || !strings.HasPrefix(tc.want, "error") && got != tc.want && !(err != nil && strings.Contains(got, tc.want)) {
				t.Errorf("read as\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

// TestValuesStayAsWritten: what is a number, a date or a truth to YAML is the text
// that its author sees.
func TestValuesStayAsWritten(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "values.yml"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, one := range m.Apps[0].Env {
		name, value, _ := strings.Cut(one, "=")
		got[name] = value
	}
	want := map[string]string{
		"SPECIAL_IDS": "1234,5678,1337", "ACTOR_TIMEOUT": "21474835", "MAX_FILE": "128000000", "BIG": "12345678901234567890",
		"FLOAT": "1.10", "EXP": "1e3", "OCT": "0123", "OCT2": "0o17", "HEX": "0x1F", "TIME": "12:30:45", "COLON": ":dd",
		"YES": "yes", "ON": "on", "BOOL": "true", "NULLV": "", "EMPTY": "", "DATE": "2012-08-01",
		"JSON": `{"a": [1, "two"], "pw": "x y"}`, "JBP": `{java_main_class: "com.abc.My", arguments: "config.yml"}`,
		"TEMPLATE": "xyx${something}abc", "DBURL": "postgres://u:pa$word@h/db", "BCRYPT": "$2b$10$N9qo8uLOickgx2ZMRZoMye",
		"QUOTED": `"bar"`, "SQUOTED": "'tis", "BACKSLASH": `C:\temp\new`, "TICK": "`id`", "SUBST": "$(id)", "EQ": "a=b=c",
		"PEM": "-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----\n", "UNI": "grüße 日本 €", "TRAIL": "x ", "LEAD": " x",
		"lower-case.dotted": "v", "JAVA_OPTS": "-Dspring.main.show_banner=false -Xss228k",
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d variables, want %d", len(got), len(want))
	}
}

func TestNotices(t *testing.T) {
	m, err := Parse([]byte("buildpack: ruby\napplications:\n- {name: a, stack: x}\n- {name: b}\n"))
	if err != nil || strings.Join(m.Notices, "; ") != "stack is not used by this cloud; buildpack is not used by this cloud: framework and runtime say what an app is run with" {
		t.Errorf("%q, %v", m.Notices, err)
	}
}

// TestInherit: a key of other clouds' manifests is answered with what does the same here.
func TestInherit(t *testing.T) {
	_, err := Parse([]byte("inherit: base.yml\napplications: [{name: a}]\n"))
	if err == nil || !strings.Contains(err.Error(), "[1:1] inherit is not read by this cloud: put what apps share") {
		t.Errorf("a manifest of later versions: %v", err)
	}
}

// TestAliasesAreBounded: a few lines of aliases cannot take the memory of gigabytes.
func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	b.WriteString("applications: [{name: a}]\n")
	begin := time.Now()
	if _, err := Parse([]byte(b.String())); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("the error is %v after %v", err, time.Since(begin))
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	if m, err := File(dir); m.Apps != nil || err != nil {
		t.Errorf("without a manifest: %v, %v", m.Apps, err)
	}
	if err := os.WriteFile(filepath.Join(dir, Name), []byte("applications: [{name: a, path: x}, {name: b, path: /y}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := File(dir)
	if err != nil || len(m.Apps) != 2 || m.Apps[0].Path != filepath.Join(dir, "x") || m.Apps[1].Path != "/y" {
		t.Errorf("read as %+v, %v", m.Apps, err)
	}
}

// FuzzParse: no manifest makes vmc panic, and what is accepted can be pushed:
// every app has a name of its own, and variables have names.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.yml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("applications:\n  ./x: {name: a, framework: {name: node}, services: {a: {}}}\n"))
	f.Add([]byte("name: a\nroutes: [{route: x}]\ntimeout: 3m\n<<: {mem: 1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, a := range m.Apps {
			if a.Name == "" || names[a.Name] {
				t.Errorf("no name, or not its own: %+v", a)
			}
			names[a.Name] = true
			for _, one := range a.Env {
				if _, err := Variable(one); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
