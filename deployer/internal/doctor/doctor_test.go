package doctor

import (
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

func findings(x *Doctor) string {
	var out []string
	for _, f := range x.Findings {
		out = append(out, string(f.Level)+" "+f.Check+": "+f.Message+" -> "+f.Fix)
	}
	return strings.Join(out, "\n")
}

// What an agent says of itself is judged, and each judgement says what to do.
func TestDoctorJudgesAgents(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	whole := func() checkup {
		return checkup{took: 10 * time.Millisecond, Inventory: api.Inventory{
			Instance: "app/0", State: api.InstanceRunning, Now: time.Now(), Bus: api.BusStatus{URLs: []string{"tls://x:1"}, Connected: true},
			Vitals: &api.Vitals{DiskBytes: 10 << 30, DiskUsedBytes: 1 << 30},
		}}
	}
	for _, tc := range []struct {
		name     string
		change   func(*checkup)
		outdated bool
		want     string // part of the only finding, "" for none
	}{
		{"whole", func(*checkup) {}, false, ""},
		{"outdated", func(*checkup) {}, true, "warn agent app/0: it runs another version"},
		{"clock a little off", func(c *checkup) { c.offset = -3 * time.Second }, false, "warn agent app/0: its clock is -3s off"},
		{"clock off, within what the answer took", func(c *checkup) { c.offset, c.took = 3*time.Second, 4*time.Second }, false, ""},
		{"clock ten minutes off", func(c *checkup) { c.offset = 10 * time.Minute }, false, "fail agent app/0: its clock is 10m0s off"},
		{"older than the question for its clock", func(c *checkup) { c.Now, c.offset = time.Time{}, 10*time.Minute }, false, ""},
		{"failing", func(c *checkup) { c.State, c.Reasons = api.InstanceFailing, []string{"check says no"} }, false, "fail agent app/0: it is failing: check says no -> deploy logs"},
		{"stopped", func(c *checkup) { c.State = api.InstanceStopped }, false, "warn agent app/0: its processes are stopped"},
		{"agent's files", func(c *checkup) { c.Agent.Damaged = []string{"bin/shim-1 is missing"} }, false, "bin/shim-1 is missing -> deploy apply"},
		{"disk gone", func(c *checkup) { c.Agent.DiskGone = "/disks/db-0" }, false, "fail agent app/0: its persistent disk /disks/db-0 is lost"},
		{"interrupted", func(c *checkup) { c.Interrupted = true }, false, "warn agent app/0: an update began"},
		{"drift", func(c *checkup) { c.Drift = []api.Drift{{Path: "jobs/a/b", Kind: api.DriftMissing}} }, false, "jobs/a/b removed by hand"},
		{"drift that is left", func(c *checkup) { c.Drift = []api.Drift{{Path: "store/a/b", Kind: api.DriftExtra, Left: true}} }, false, ""},
		{"off the bus", func(c *checkup) { c.Bus.Connected, c.Bus.Error = false, "refused" }, false, "warn agent app/0: it is not on the bus: refused"},
		{"certificate over", func(c *checkup) { c.Bus.CertificateEnds = &past }, false, "fail agent app/0: its certificate has ended"},
		{"disk short", func(c *checkup) { c.Vitals.DiskUsedBytes = c.Vitals.DiskBytes - 100<<20 }, false, "warn agent app/0: its disk has 100 MiB left"},
		{"disk full", func(c *checkup) { c.Vitals.DiskUsedBytes = c.Vitals.DiskBytes }, false, "fail agent app/0: its disk has 0 MiB left"},
	} {
		x, c := &Doctor{}, whole()
		tc.change(&c)
		x.agent("agent app/0", c, tc.outdated)
		got := findings(x)
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) || len(x.Findings) > 1 || got != "" && x.Findings[0].Fix == "" {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestDoctorJudgesCertificates(t *testing.T) {
	made := time.Now().Add(-100 * time.Hour)
	ca, err := pki.NewCA(rand.Reader, "test", made, 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(life time.Duration) state.Certificate {
		p, err := ca.IssueServer(rand.Reader, "x", []string{"x"}, nil, made, life)
		if err != nil {
			t.Fatal(err)
		}
		return state.Certificate{KeyPair: state.KeyPair{Certificate: string(p.Certificate)}}
	}
	for _, tc := range []struct {
		life time.Duration
		want string
	}{
		{400 * time.Hour, "ok jobs' certificates: valid until"},
		{120 * time.Hour, "warn jobs' certificates: that of a/0/j/c ends at"},
		{99 * time.Hour, "fail jobs' certificates: that of a/0/j/c has ended at"},
	} {
		x := &Doctor{}
		x.certificates(&session.Session{Now: time.Now(), Manifest: &manifests.Manifest{}, Secrets: &state.Secrets{
			CA: state.KeyPair{Certificate: string(pair.Certificate)}, Certificates: map[string]state.Certificate{"a/0/j/c": issue(tc.life)},
		}})
		got := findings(x)
		if !strings.Contains(got, tc.want) || !strings.Contains(got, "ok CA: valid until") || len(x.Findings) != 2 {
			t.Errorf("life %s: got\n%s\nwant %s", tc.life, got, tc.want)
		}
	}
}

// TestDoctorTellsEarlierDefaults: what is open since an earlier version is told, with
// what to set; a new deployment has nothing of it.
func TestDoctorTellsEarlierDefaults(t *testing.T) {
	files := fstest.MapFS{
		"j/job.hcl":   {Data: []byte("property \"open\" {\n  type = bool\n  default = false\n  earlier_default = true\n}\nprocess \"p\" { command = [\"p\"] }\n")},
		"cluster.hcl": {Data: []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\nvm \"default\" {\n  cpus = 1\n  memory_mb = 64\n}\ngroup \"a\" {\n  job \"j\" {}\n}\n")},
	}
	m, diags := manifests.Load(files, "cluster.hcl", manifests.Options{Jobs: files})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	x := &Doctor{}
	x.defaults(&session.Session{Manifest: m, State: state.New("d")})
	if len(x.Findings) != 0 {
		t.Errorf("a new deployment: %s", findings(x))
	}
	x.defaults(&session.Session{Manifest: m, State: &state.State{Version: 1, Deployment: "d"}}) // has no word of it
	if got := findings(x); !strings.HasPrefix(got, "warn defaults: open of job j in group a is true,") || !strings.Contains(got, `set open = false in job "j" of group "a"`) {
		t.Errorf("got %s", got)
	}
}

// TestDoctorTellsLevels: what machines offer jobs is told, and is a failure where it
// is less than what the manifest requires.
func TestDoctorTellsLevels(t *testing.T) {
	x := &Doctor{}
	x.levels([]plan.LevelReport{
		{Instance: "dea/0", Job: "dea", Name: "isolation", Level: "full", Least: "namespaces"},
		{Instance: "dea/1", Job: "dea", Name: "isolation", Level: "processes", Least: "namespaces", Below: true},
	})
	want := "fail isolation: isolation of job dea on dea/1 is processes, less than namespaces, which the manifest requires -> change the machine, or the job's property isolation\n" +
		"ok isolation: full on dea/0; processes on dea/1 -> "
	if got := findings(x); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDoctorFindsWhoListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x, s := &Doctor{}, &session.Session{State: state.New("d")}
	x.port(s, l.Addr().String())
	if got := findings(x); !strings.Contains(got, "fail address "+l.Addr().String()+": in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %s", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	x = &Doctor{}
	x.port(s, l.Addr().String())
	if got := findings(x); !strings.HasPrefix(got, "ok address "+l.Addr().String()+": free") {
		t.Errorf("got %s", got)
	}
	x = &Doctor{}
	x.port(s, "192.0.2.1:80") // TEST-NET-1, RFC 5737: nobody's
	if got := findings(x); !strings.Contains(got, "fail address 192.0.2.1:80: cannot be listened on") {
		t.Errorf("got %s", got)
	}
}

// Built files that are not what their index says are named.
func TestDoctorReadsThePackages(t *testing.T) {
	from, folder := t.TempDir(), t.TempDir()
	for _, name := range []string{"agent", "router"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := packages.Pack(from, filepath.Join(folder, "linux_amd64"), "linux", "amd64", []string{"agent", "router"}); err != nil {
		t.Fatal(err)
	}
	x := &Doctor{}
	x.packages(folder)
	if got := findings(x); !strings.HasPrefix(got, "ok packages: ") || len(x.Findings) != 1 {
		t.Errorf("got %s", got)
	}
	archives, err := filepath.Glob(filepath.Join(folder, "*", "router.tar.gz"))
	if err != nil || len(archives) != 1 {
		t.Fatal(archives, err)
	}
	if err := os.Truncate(archives[0], 10); err != nil {
		t.Fatal(err)
	}
	x.Findings = nil
	x.packages(folder)
	if got := findings(x); !strings.HasPrefix(got, "fail packages: ") || !strings.Contains(got, "router.tar.gz") || !strings.Contains(got, "make build") {
		t.Errorf("got %s", got)
	}
}

// An agent that calls itself by its group's former name waits for an apply, and is
// no stranger; any other name is.
func TestAgentOfAMovedGroup(t *testing.T) {
	st := state.New("d")
	st.DeploymentID = "1"
	st.VMs = map[string]state.VM{"db/0": {ID: "vm-1"}}
	d := Deployment{Session: &session.Session{
		State:    st,
		Manifest: &manifests.Manifest{Moves: []manifests.Move{{From: "database", To: "db"}}},
	}}
	for name, want := range map[string]string{
		"db/0": "", "database/0": "warn agent db/0: its group was moved", "database/1": "fail agent db/0: it calls itself database/1", "web/0": "fail agent db/0",
	} {
		x := &Doctor{}
		x.agree(d, map[string]*api.Inventory{"db/0": {DeploymentID: "1", VMID: "vm-1", Instance: name}})
		if got := findings(x); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
