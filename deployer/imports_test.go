package deployer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// importRule says which of our packages some of our packages may import. All
// paths are below the module's; expressions match whole paths, and in may and
// tests $1 is what the first group of packages matched.
type importRule struct {
	packages string
	may      string // imports
	tests    string // more of them, in tests
	stdOnly  bool   // nor anything else but the standard library, tests apart
	never    string // nor these of the standard library, tests apart
}

// outside holds what a pure package must not import: files, processes, networks.
const outside = `os|os/.*|path/filepath|net|net/http|syscall`

// importRules is ARCHITECTURE.md's table. The first rule that matches a package
// is its rule; a package without a rule is an error.
var importRules = []importRule{
	{packages: `manifests/internal/(functions|graph)`, never: outside},
	{packages: `manifests/internal/syntax`, may: `manifests/internal/functions`, never: outside},
	{packages: `manifests/internal/jobspec`, may: `manifests/internal/syntax`, never: outside}, // a job knows no manifest
	{packages: `manifests`, may: `manifests/internal/.*`, tests: `manifests(/.*)?`, never: outside},

	// The leaves: what everybody's programs need of a Linux host. They know nobody,
	// and whoever is not pure may import them.
	{packages: `agent/host/[^/]+`, may: `agent/host/[^/]+`},
	{packages: `agent/api`, tests: `agent/api`, stdOnly: true},
	{packages: `agent/client`, may: `agent/api|agent/host/[^/]+`, tests: `agent(/.*)?`},
	{packages: `agent/internal/.*`, may: `agent/(api|client|host/[^/]+|internal/.*)`, tests: `agent(/.*)?`},
	{packages: `agent(/.*)?`, may: `agent(/.*)?`},

	// The pure parts: no machine, no clock, nothing that could reach one.
	{packages: `deployer/internal/(plan|render)`, may: `manifests|agent/api`, tests: `deployer/internal/(plan|render)`, never: outside},
	{packages: `deployer/internal/rollout`, may: `manifests|agent/api|deployer/internal/plan`, tests: `deployer/internal/rollout`},
	{packages: `deployer/internal/cli(/.*)?`, may: `deployer(/.*)?|manifests|agent/api`},
	{packages: `deployer/cmd/deploy`, may: `deployer/internal/cli|jobs|templates`},
	{packages: `deployer/cmd/pack`, may: `deployer/internal/packages`},
	{packages: `deployer/internal/memfs`, stdOnly: true},
	// What the deployer's parts use. It knows none of them.
	{packages: `deployer/internal/(state|ssh(/.*)?)`, tests: `deployer/internal/ssh/sshtest`},
	{packages: `deployer/internal/(packages|pki|bus)`, may: `manifests|agent/(api|client)`, tests: `deployer/internal/pki`},
	{packages: `deployer/internal/release`, may: `deployer/internal/(memfs|packages)|manifests`},
	{packages: `deployer/internal/bootstrap`, may: `deployer/internal/(packages|ssh)|agent/(api|client)`, tests: `deployer/internal/ssh/sshtest|agent/agenttest`},
	{packages: `deployer/internal/simulate`, may: `deployer/internal/rollout|agent/api`, tests: `manifests`},
	// The three programs of local VMs know what they share, and not each other.
	{packages: `deployer/internal/localvm`, may: `agent/host/[^/]+`},
	{packages: `deployer/internal/localvm/(vminit|publish)`, may: `deployer/internal/localvm|agent/host/[^/]+`},
	{packages: `deployer/internal/localvm/provider`, may: `deployer/internal/localvm`, tests: `deployer/internal/localvm/.*`},
	{packages: `deployer/internal/terraform`, may: `deployer/internal/localvm/provider`, tests: `deployer/internal/localvm/.*`},
	// The deployer's parts: each knows only those above it.
	{packages: `deployer/internal/session`, may: `deployer/internal/(plan|state)|manifests|agent/api`},
	{packages: `deployer/internal/acme`},
	{packages: `deployer/internal/stemcells`, may: `manifests`},
	{packages: `deployer/internal/domains`, may: `deployer/internal/state|manifests|agent/host/[^/]+`, tests: `deployer/internal/pki`},
	{packages: `deployer/internal/credentials`, may: `deployer/internal/(acme|bus|domains|pki|session|state)|manifests|agent/api`, tests: `agent/host/tlspair`},
	{packages: `deployer/internal/source`, may: `deployer/internal/(memfs|packages|plan|release|render|session|state)|manifests`},
	{packages: `deployer/internal/fleet`, may: `deployer/internal/(bootstrap|bus|credentials|packages|plan|session|source|ssh|state)|agent/(api|client)`, tests: `deployer/internal/ssh/sshtest|manifests`},
	{packages: `deployer/internal/infra`, may: `deployer/internal/(credentials|fleet|localvm|plan|session|state|stemcells|terraform)|manifests|agent/api`, tests: `deployer/internal/memfs`},
	{packages: `deployer/internal/desired`, may: `deployer/internal/(credentials|plan|render|session|source)|manifests|agent/api`},
	{packages: `deployer/internal/execute`, may: `deployer/internal/(credentials|desired|fleet|infra|plan|rollout|session|state)|agent/api`, tests: `manifests`},
	{packages: `deployer/internal/doctor`, may: `deployer/internal/(credentials|desired|domains|fleet|infra|packages|pki|plan|session|source|state|terraform)|manifests|agent/(api|client|host/proc)`},
	{packages: `deployer`, may: `deployer/internal/.*|manifests|agent/(api|client|host/[^/]+)`, tests: `deployer|agent/agenttest`},

	{packages: `stemcells`}, // recipes: their tests

	{packages: `jobs/wire`, tests: `jobs/wire`, stdOnly: true},
	{packages: `jobs/component/componenttest`}, // for tests: a bus, a free port, a wait
	{packages: `jobs/component(/.*)?`, may: `jobs/component(/.*)?|jobs/wire|agent/host/[^/]+`, tests: `jobs/nats`},
	{packages: `jobs/runtimes`, may: `jobs/wire`, tests: `jobs/runtimes`},        // what stager, DEA and controller must agree on
	{packages: `jobs`, tests: `jobs(/.*)?|manifests`},                            // job.hcl files and templates: data
	{packages: `jobs/confine(/.*)?`, may: `jobs/confine(/.*)?|agent/host/[^/]+`}, // what stager and DEA run of users
	// The controller's parts: each knows only those above it.
	{packages: `jobs/cloud_controller/internal/(archive|auth)`},
	{packages: `jobs/cloud_controller/internal/store`, may: `jobs/component/(passwords|sqldb)`, tests: `jobs/component/sqldb/postgrestest`},
	{packages: `jobs/cloud_controller/internal/rolling`, tests: `jobs/cloud_controller/internal/rolling`, stdOnly: true}, // pure
	{packages: `jobs/cloud_controller/internal/blob`, may: `jobs/cloud_controller/internal/archive`},
	{packages: `jobs/cloud_controller/internal/config`, may: `jobs/(component|component/sqldb|wire)`},
	{packages: `jobs/cloud_controller/internal/model`, may: `jobs/cloud_controller/internal/(config|store)|jobs/(runtimes|wire)`},
	{packages: `jobs/cloud_controller/internal/hosts`, may: `jobs/cloud_controller/internal/(config|store)|jobs/wire`},
	{packages: `jobs/cloud_controller/internal/routers`, may: `jobs/wire`},
	{packages: `jobs/cloud_controller/internal/rest`, may: `jobs/cloud_controller/internal/(auth|config|model)|jobs/component/sqldb`},
	{packages: `jobs/cloud_controller/internal/uaa`, may: `jobs/cloud_controller/internal/config|jobs/wire`},
	{packages: `jobs/cloud_controller/internal/accounts`, may: `jobs/cloud_controller/internal/(auth|config|model|rest|store|uaa)|jobs/component/passwords|jobs/wire`},
	{packages: `jobs/cloud_controller/internal/services`, may: `jobs/cloud_controller/internal/(config|model|rest|store)|jobs/(wire|confine/network)`},
	{packages: `jobs/cloud_controller/internal/peers`, may: `jobs/cloud_controller/internal/(archive|blob|config|model|rest|store)`},
	{packages: `jobs/cloud_controller/internal/staging`, may: `jobs/cloud_controller/internal/(blob|config|model|peers|rest|services|store)|jobs/wire`},
	{packages: `jobs/cloud_controller/internal/placement`, may: `jobs/cloud_controller/internal/(blob|config|model|rest|rolling|services|store)|jobs/wire|jobs/confine`},
	{packages: `jobs/cloud_controller/internal/updates`, may: `jobs/cloud_controller/internal/(config|model|placement|rolling|store)|jobs/wire`},
	{packages: `jobs/cloud_controller/internal/api`, may: `jobs/cloud_controller/internal/(accounts|archive|blob|config|hosts|model|peers|placement|rest|rolling|routers|services|staging|store|updates)|jobs/wire`},
	// The users' program speaks to the controller as anybody can.
	{packages: `jobs/cloud_controller/client`, tests: `jobs/cloud_controller(/.*)?`},
	{packages: `jobs/cloud_controller/(vmc|cmd/vmc)(/.*)?`, may: `jobs/cloud_controller/(vmc(/.*)?|client)`, tests: `jobs(/.*)?`},

	{packages: `jobs/nats/natstest`, may: `jobs|jobs/nats|manifests`}, // for tests of components: the users of job.hcl

	// A job knows no other job, in tests apart, and not who deploys it.
	{packages: `(jobs/[^/]+|examples/jobs/[^/]+)(/.*)?`, may: `$1(/.*)?|jobs/component(/.*)?|jobs/confine(/.*)?|jobs/runtimes|jobs/wire|agent/host/[^/]+`, tests: `jobs(/.*)?|agent/(api|client|agenttest)|manifests`},

	{packages: `templates`, tests: `.*`},
	{packages: `examples(/.*)?`, tests: `.*`},
}

// walks are two ways through the code, from call to call: of a manifest's property
// into a job's file, and of an app's start onto a DEA. A package calls the next
// one, or reaches it over the network ("~", by agent/client or jobs/wire); none knows
// a package before it.
var walks = map[string]string{
	"a property is read and rendered": "deployer/cmd/deploy deployer/internal/cli deployer deployer/internal/desired deployer/internal/render manifests",
	"a property reaches a job's file": "deployer/internal/cli deployer deployer/internal/execute deployer/internal/fleet ~ agent agent/internal/install",
	"an app is staged":                "jobs/cloud_controller/cmd/vmc jobs/cloud_controller/vmc jobs/cloud_controller/client ~ jobs/cloud_controller/internal/api jobs/cloud_controller/internal/staging ~ jobs/stager",
	"an app starts":                   "jobs/cloud_controller/client ~ jobs/cloud_controller/internal/api jobs/cloud_controller/internal/placement ~ jobs/dea jobs/dea/internal/core",
}

func TestWalksNeverClimbBack(t *testing.T) {
	t.Parallel()
	module, packages := listPackages(t)
	for name, walk := range walks {
		for _, problem := range climbs(module, packages, strings.Fields(walk)) {
			t.Errorf("%s: %s", name, problem)
		}
	}
	// The check finds what it is for.
	small := []goPackage{{ImportPath: "m/top", Imports: []string{"m/middle"}}, {ImportPath: "m/middle", Imports: []string{"m/low"}}, {ImportPath: "m/low", Imports: []string{"m/other"}}, {ImportPath: "m/other", Imports: []string{"m/far"}}, {ImportPath: "m/far"}}
	for walk, want := range map[string]int{"top middle low": 0, "top low": 1, "far ~ low": 1, "low ~ top": 1, "top nowhere": 1} {
		if got := climbs("m", small, strings.Fields(walk)); len(got) != want {
			t.Errorf("%s: %q", walk, got)
		}
	}
}

// climbs returns where a walk's packages do not call the next one, or know one
// that comes before them.
func climbs(module string, packages []goPackage, walk []string) []string {
	imports := map[string][]string{}
	for _, p := range packages {
		imports[strings.TrimPrefix(p.ImportPath, module+"/")] = p.Imports
	}
	var problems []string
	var knows func(name string, seen map[string]bool)
	knows = func(name string, seen map[string]bool) {
		for _, imported := range imports[name] {
			if ours, is := strings.CutPrefix(imported, module+"/"); is && !seen[ours] {
				seen[ours] = true
				knows(ours, seen)
			}
		}
	}
	for i, name := range walk {
		if i > 0 && name != "~" && walk[i-1] != "~" && !slices.Contains(imports[walk[i-1]], module+"/"+name) {
			problems = append(problems, walk[i-1]+" does not import "+name)
		}
		if _, there := imports[name]; !there && name != "~" && (i == 0 || walk[i-1] == "~") {
			problems = append(problems, name+" does not exist")
		}
		seen := map[string]bool{}
		knows(name, seen)
		for _, before := range walk[:i] {
			if seen[before] {
				problems = append(problems, name+" knows "+before+", which comes before it")
			}
		}
	}
	return problems
}

// goPackage describes what `go list -json` says of a package.
type goPackage struct {
	Dir, ImportPath                    string
	Imports, TestImports, XTestImports []string
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	module, packages := listPackages(t)
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages only", len(packages))
	}
	for _, problem := range violations(module, packages, importRules) {
		t.Error(problem)
	}
}

func listPackages(t *testing.T) (module string, packages []goPackage) {
	t.Helper()
	run := func(args ...string) []byte {
		cmd := exec.Command("go", args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
		}
		return out
	}
	module = strings.TrimSpace(string(run("list", "-m")))
	// -e: what does not compile is another test's concern.
	decoder := json.NewDecoder(bytes.NewReader(run("list", "-e", "-tags", "e2e", "-json=Dir,ImportPath,Imports,TestImports,XTestImports", module+"/...")))
	for {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return module, packages
		}
		if err != nil {
			t.Fatal(err)
		}
		// What the go command reads is no input of this test to the cache of results,
		// which would keep a result although packages have changed; a folder that is
		// opened here is one, with times and sizes of all that it holds. The root is
		// not among them: every build and commit changes bin and .git.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// violations are the imports that no rule allows.
func violations(module string, packages []goPackage, rules []importRule) []string {
	var problems []string
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		i := slices.IndexFunc(rules, func(r importRule) bool { return whole(r.packages).MatchString(name) })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("%s has no import rule: add one to importRules and to ARCHITECTURE.md", name))
			continue
		}
		rule := rules[i]
		check := func(imports []string, allowed, where string) {
			match := whole(rule.packages)
			allowed = string(match.ExpandString(nil, allowed, name, match.FindStringSubmatchIndex(name)))
			for _, imported := range imports {
				ours, is := strings.CutPrefix(imported, module+"/")
				first, _, _ := strings.Cut(imported, "/")
				switch {
				case is && !whole(allowed).MatchString(ours):
					problems = append(problems, fmt.Sprintf("%s%s must not import %s: it may import %q", name, where, ours, allowed))
				case where == "" && (whole("testing(/.*)?").MatchString(imported) && !strings.HasSuffix(name, "test") || rule.never != "" && whole(rule.never).MatchString(imported)):
					problems = append(problems, fmt.Sprintf("%s must not import %s", name, imported))
				case !is && rule.stdOnly && where == "" && strings.Contains(first, "."):
					problems = append(problems, fmt.Sprintf("%s must not import %s: it may import the standard library only", name, imported))
				}
			}
		}
		check(p.Imports, rule.may, "")
		both := rule.may + "|" + rule.tests
		if rule.may == "" {
			both = rule.tests
		}
		check(p.TestImports, both, " (test)")
		check(p.XTestImports, both+"|"+regexp.QuoteMeta(name), " (test)")
	}
	return problems
}

func whole(expression string) *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + expression + `)$`)
}

// The rules find what they are for.
func TestImportRulesCatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		from, imports string
		test          bool // from its tests
		caught        bool
	}{
		{"manifests", "agent/api", false, true},
		{"manifests", "manifests/internal/graph", false, false},
		{"manifests", "os", false, true},
		{"manifests/internal/syntax", "manifests/internal/jobspec", false, true},
		{"manifests", "os", true, false},
		{"deployer", "testing/fstest", false, true},
		{"agent/agenttest", "testing", false, false},
		{"agent/api", "agent/client", false, true},
		{"agent/api", "github.com/nats-io/nats.go", false, true},
		{"agent/internal/server", "manifests", false, true},
		{"agent/client", "agent/internal/server", false, true},
		{"agent/host/unpack", "agent/api", false, true},
		{"agent/internal/install", "agent/host/unpack", false, false},
		{"jobs/dea", "agent/host/unpack", false, false},
		{"deployer/internal/render", "agent/host/unpack", false, true},
		{"agent", "deployer/internal/plan", true, true},
		{"deployer/internal/plan", "manifests", false, false},
		{"deployer/internal/plan", "agent/client", false, true},
		{"deployer/internal/bootstrap", "agent/client", false, false},
		{"deployer/internal/state", "deployer/internal/session", false, true},
		{"deployer/internal/session", "deployer/internal/credentials", false, true},
		{"deployer/internal/fleet", "deployer/internal/credentials", false, false},
		{"deployer/internal/fleet", "deployer/internal/infra", false, true},
		{"deployer/internal/infra", "deployer/internal/fleet", false, false},
		{"deployer/internal/infra", "deployer/internal/desired", false, true},
		{"deployer/internal/desired", "deployer/internal/infra", false, true},
		{"deployer/internal/execute", "deployer", false, true},
		{"deployer/internal/execute", "deployer/internal/infra", false, false},
		{"deployer/internal/terraform", "deployer/internal/infra", false, true},
		{"deployer/internal/terraform", "deployer/internal/localvm/vminit", false, true},
		{"deployer/internal/localvm", "deployer/internal/localvm/provider", false, true},
		{"deployer/internal/localvm/provider", "deployer/internal/localvm/vminit", false, true},
		{"deployer/internal/localvm/provider", "deployer/internal/localvm/vminit", true, false},
		{"deployer/internal/localvm/vminit", "deployer/internal/localvm", false, false},
		{"deployer/internal/anything", "deployer/internal/state", false, true},
		{"deployer/internal/bootstrap", "jobs/router", true, true},
		{"deployer", "agent/agenttest", false, true},
		{"deployer", "agent/agenttest", true, false},
		{"deployer", "templates", false, true},
		{"deployer/cmd/deploy", "jobs", false, false},
		{"deployer/cmd/deploy", "jobs/router", false, true},
		{"jobs/component", "jobs/router", false, true},
		{"jobs/router", "jobs/router/internal/table", false, false},
		{"jobs/router", "jobs/nats", false, true},
		{"jobs/router", "jobs/nats", true, false},
		{"jobs/dea", "jobs/runtimes", false, false},
		{"jobs/cloud_controller/internal/store", "jobs/cloud_controller/internal/model", false, true},
		{"jobs/cloud_controller/internal/placement", "jobs/cloud_controller/internal/api", false, true},
		{"jobs/cloud_controller/internal/api", "jobs/cloud_controller/internal/placement", false, false},
		{"jobs/runtimes", "jobs/component", false, true},
		{"jobs/router/cmd/router", "jobs/component", false, false},
		{"jobs/router", "agent/api", false, true},
		{"examples/jobs/hello", "examples/jobs/other", false, true},
		{"examples/jobs/hello", "jobs/wire", false, false},
		{"examples", "deployer/internal/state", false, true},
		{"elsewhere", "fmt", false, true},
	}
	for _, test := range tests {
		imported := test.imports
		if !strings.Contains(imported, ".") && strings.Contains(imported, "/") && !strings.HasPrefix(imported, "testing") || whole(`agent|deployer|jobs|manifests|templates`).MatchString(imported) {
			imported = "m/" + imported
		}
		p := goPackage{ImportPath: "m/" + test.from, Imports: []string{imported}}
		if test.test {
			p = goPackage{ImportPath: "m/" + test.from, TestImports: []string{imported}}
		}
		if got := violations("m", []goPackage{p}, importRules); (len(got) > 0) != test.caught {
			t.Errorf("%s imports %s (test: %v): %q, want caught = %v", test.from, test.imports, test.test, got, test.caught)
		}
	}
}
