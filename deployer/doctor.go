package deployer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Level is how a check of Doctor ended.
type Level string

const (
	LevelOK   Level = "ok"
	LevelWarn Level = "warn" // works, and will not always
	LevelFail Level = "fail" // an apply cannot work, or what runs does not
)

// Finding is one line of a Diagnosis.
type Finding struct {
	Check   string `json:"check"` // "engine", "agent router/0", ...
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what to do, where there is something
}

// Diagnosis is what Doctor found, in the order of the checks.
type Diagnosis struct {
	Deployment string    `json:"deployment,omitempty"` // "" if the manifest is not readable
	Findings   []Finding `json:"findings"`
}

// Failed tells whether any check failed.
func (d *Diagnosis) Failed() bool {
	return slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.Level == LevelFail })
}

// When clocks, disks and certificates are a reason to worry.
const (
	// clockWarn beyond what the question took; clockFail is what certificates,
	// whose validity begins a little in the past, do not take any more.
	clockWarn = 2 * time.Second
	clockFail = 5 * time.Minute
	diskFail  = 64 << 20  // bytes: no package can be unpacked
	diskWarn  = 512 << 20 // bytes
)

// doctor collects findings.
type doctor struct {
	*Deployer
	Diagnosis
}

func (x *doctor) add(level Level, check, fix, format string, args ...any) {
	x.Findings = append(x.Findings, Finding{Check: check, Level: level, Message: fmt.Sprintf(format, args...), Fix: fix})
}

// problem adds a failure, or nothing; the error says what to do itself.
func (x *doctor) problem(check string, err error) bool {
	if err != nil {
		x.add(LevelFail, check, "", "%s", strings.TrimSpace(err.Error()))
	}
	return err != nil
}

// Doctor checks everything that an apply needs and everything that runs, and
// changes nothing.
func (d *Deployer) Doctor(ctx context.Context) *Diagnosis {
	x := &doctor{Deployer: d}
	x.engine(ctx)
	x.packages()
	x.machine()
	located, err := d.locate()
	if x.problem("manifest", err) {
		return &x.Diagnosis
	}
	x.Deployment = located.manifest.Deployment.Name
	x.state(located)
	r, err := d.load()
	if err != nil {
		if _, packagesErr := packages.Open(d.config.Packages); packagesErr == nil { // else told already
			x.problem("state", err)
		}
		return &x.Diagnosis
	}
	defer r.close()
	x.manifest(r)
	x.problem("engine's state", checkEngine(r.store, r.state))
	x.ports(r)
	if len(r.state.VMs) == 0 {
		x.add(LevelOK, "agents", "", "nothing is deployed yet")
		return &x.Diagnosis
	}
	x.certificates(r)
	inventories := r.fleet.survey(ctx, patient)
	x.bus(r, inventories)
	x.agents(ctx, r, inventories)
	return &x.Diagnosis
}

func (x *doctor) engine(ctx context.Context) {
	engine, err := terraform.Find(ctx, terraform.FindOptions{NoBuild: true})
	switch {
	case err == nil:
		x.add(LevelOK, "engine", "", "%s %s (%s)", engine.Name, engine.Version, engine.Path)
	case errors.Is(err, terraform.ErrNotBuilt):
		x.add(LevelWarn, "engine", "install OpenTofu or Terraform to save the time", "none on PATH: the first apply builds OpenTofu, which takes some minutes")
	default:
		x.problem("engine", err)
	}
}

// packages reads every built file.
func (x *doctor) packages() {
	index, err := packages.Open(x.config.Packages)
	if x.problem("packages", err) {
		return
	}
	for _, p := range index.Platforms() {
		names := p.Programs()
		agent, err := p.Agent()
		bad := x.problem("packages", err)
		if err == nil {
			bad = x.problem("packages", agent.Verify())
		}
		for _, name := range names {
			blob, err := p.Program(name)
			if err == nil {
				err = blob.Verify()
			}
			bad = x.problem("packages", err) || bad
		}
		if !bad {
			x.add(LevelOK, "packages", "", "%s/%s: the agent and %s are whole", p.OS, p.Arch, strings.Join(names, ", "))
		}
	}
}

func (x *doctor) manifest(r *run) {
	wanted, err := r.wanted()
	if x.problem("manifest", err) {
		return
	}
	x.add(LevelOK, "manifest", "", "%d groups, %d instances, all templates render", len(r.manifest.Groups), len(wanted))
}

// state checks the folder: it holds every secret of the deployment.
func (x *doctor) state(r *run) {
	dir := r.store.Dir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		x.writable("state", nearest(dir))
		x.disk("state", nearest(dir))
		return
	}
	if x.problem("state", err) {
		return
	}
	ok := x.writable("state", dir)
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		ok = false
		x.add(LevelFail, "state", "chmod 700 "+dir, "others may look into the folder %s (mode %04o), which holds secrets", dir, mode)
	}
	for _, name := range []string{"secrets.json", "state.json"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			ok = false
			x.add(LevelFail, "state", "chmod 600 "+filepath.Join(dir, name), "others may read %s (mode %04o)", name, info.Mode().Perm())
		}
	}
	if ok {
		x.add(LevelOK, "state", "", "%s is writable and private", dir)
	}
	if h := r.store.Holder(); h.PID != 0 {
		x.add(LevelWarn, "lock", "wait for it, or end it if it hangs: the next apply continues", "%s works on this deployment", h)
	}
	x.disk("state", dir)
}

// nearest is the folder, or the first above it that exists.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (x *doctor) writable(check, dir string) bool {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		x.add(LevelFail, check, "make it writable for this user, or choose another with --state", "cannot write into %s: %v", dir, err)
	}
	return err == nil
}

// certificates tells how long what the deployment has signed is valid.
func (x *doctor) certificates(r *run) {
	type group struct {
		check, fix string
		texts      map[string]string // PEM by name
	}
	groups := []group{
		{"CA", "deploy rotate-ca makes a new one", map[string]string{"the deployment's CA": r.secrets.CA.Certificate}},
		{"agents' certificates", "deploy apply renews it", map[string]string{}},
		{"jobs' certificates", "deploy apply renews it", map[string]string{}},
		{"secrets' certificates", "deploy secret rotate makes a new one", map[string]string{}},
	}
	for id, c := range r.secrets.Agents {
		groups[1].texts["the agent of "+id] = c.Certificate
	}
	for name, c := range r.secrets.Certificates {
		groups[2].texts[name] = c.Certificate
	}
	for name, attributes := range r.secrets.Values {
		if text := attributes["certificate"]; text != "" {
			groups[3].texts["secret "+name] = text
		}
	}
	for _, g := range groups {
		var first time.Time
		level := LevelOK
		for name, text := range g.texts {
			if text == "" {
				continue
			}
			certificate, err := pki.ParseCertificate([]byte(text))
			if err != nil {
				x.add(LevelFail, g.check, g.fix, "%s: %v", name, err)
				continue
			}
			if first.IsZero() || certificate.NotAfter.Before(first) {
				first = certificate.NotAfter
			}
			old, err := pki.NeedsRenewal([]byte(text), r.now)
			switch {
			case certificate.NotAfter.Before(r.now):
				level = LevelFail
				x.add(LevelFail, g.check, g.fix, "that of %s has ended at %s", name, certificate.NotAfter.Format(time.RFC3339))
			case err == nil && old && level == LevelOK:
				level = LevelWarn
				x.add(LevelWarn, g.check, g.fix, "that of %s ends at %s", name, certificate.NotAfter.Format(time.RFC3339))
			}
		}
		if level == LevelOK && !first.IsZero() {
			x.add(LevelOK, g.check, "", "valid until %s at least", first.Format(time.DateOnly))
		}
	}
}

func (x *doctor) bus(r *run, inventories map[string]*api.Inventory) {
	if len(r.state.Bus) == 0 {
		x.add(LevelOK, "bus", "", "the deployment has none; agents are asked over SSH")
		return
	}
	urls := strings.Join(r.state.Bus, ", ")
	r.fleet.mu.Lock()
	connected, err := r.fleet.bus != nil, r.fleet.busErr
	r.fleet.mu.Unlock()
	if !connected {
		x.add(LevelFail, "bus", "look at deploy status and deploy logs MANIFEST nats; agents are asked over SSH meanwhile", "cannot connect to %s: %v", urls, err)
		return
	}
	on := 0
	for _, inv := range inventories {
		if inv.Bus.Connected {
			on++
		}
	}
	x.add(LevelOK, "bus", "", "%s serves; %d of %d agents are on it", urls, on, len(r.state.VMs))
}

// checkup is an agent's answer and how its clock compares with ours.
type checkup struct {
	api.Inventory
	offset time.Duration // of its clock, ahead of ours
	took   time.Duration
}

func (x *doctor) agents(ctx context.Context, r *run, inventories map[string]*api.Inventory) {
	want, blobErr := r.agentBlob()
	answers := askAgents(ctx, r, inventories, func(ctx context.Context, id string) (checkup, error) {
		client := r.fleet.client(id)
		if _, err := client.Inventory(ctx); err != nil { // the connection is made before the clock is asked
			return checkup{}, err
		}
		begin := time.Now()
		inv, err := client.Inventory(ctx)
		took := time.Since(begin)
		return checkup{inv, inv.Now.Sub(begin.Add(took / 2)), took}, err
	})
	for _, a := range answers {
		check := "agent " + a.id
		if a.err != nil {
			fix := "look at the VM: deploy ssh MANIFEST " + a.id + "; deploy apply puts the agent back"
			switch {
			case r.fleet.distrusted.of(a.id) != nil:
				fix = "deploy recreate MANIFEST " + a.id
			case r.fleet.unreachable(a.id):
				fix = "nothing listens at its address: deploy plan asks the engine whether the VM is gone, deploy apply starts it or makes it anew"
			}
			x.add(LevelFail, check, fix, "%v", a.err)
			continue
		}
		before := len(x.Findings)
		x.agent(check, a.value, blobErr == nil && a.value.Agent.Digest != want.Digest)
		if len(x.Findings) == before {
			x.add(LevelOK, check, "", "version %s, %s, clock %+d ms", a.value.Agent.Version, a.value.State, a.value.offset.Milliseconds())
		}
	}
}

// agent adds what is wrong with one that answers.
func (x *doctor) agent(check string, c checkup, outdated bool) {
	if outdated {
		x.add(LevelWarn, check, "deploy apply brings it up to date; no process is touched", "it runs another version (%s) than the one built", c.Agent.Version)
	}
	if !c.Now.IsZero() { // else it is older than the question
		switch offset := c.offset.Abs() - c.took/2; {
		case offset > clockFail:
			x.add(LevelFail, check, "set the VM's clock, and let it be kept (chrony, systemd-timesyncd)", "its clock is %s off: certificates may not be valid there", c.offset.Round(time.Second))
		case offset > clockWarn:
			x.add(LevelWarn, check, "let the VM's clock be kept (chrony, systemd-timesyncd)", "its clock is %s off", c.offset.Round(time.Millisecond))
		}
	}
	switch c.State {
	case api.InstanceFailing:
		x.add(LevelFail, check, "deploy logs MANIFEST "+c.Instance, "it is failing: %s", strings.Join(c.Reasons, "; "))
	case api.InstanceStopped:
		x.add(LevelWarn, check, "deploy apply starts it", "its processes are stopped")
	}
	if c.Agent.DiskGone != "" {
		x.add(LevelFail, check, "bring the disk back; deploy apply --accept-data-loss makes an empty one", "%s", diskGone(c.Agent.DiskGone))
	}
	if c.Interrupted {
		x.add(LevelWarn, check, "deploy apply continues it", "an update has begun and has not ended well")
	}
	if n := len(slices.DeleteFunc(slices.Clone(c.Drift), func(d api.Drift) bool { return d.Left })); n > 0 {
		x.add(LevelWarn, check, "deploy status --drift shows all, deploy apply mends it", "%d of its paths were changed by hand: %s, ...", n, c.Drift[0])
	}
	if len(c.Bus.URLs) > 0 && !c.Bus.Connected {
		x.add(LevelWarn, check, "the agent goes on trying; deploy apply gives it new settings if these are old", "it is not on the bus: %s", c.Bus.Error)
	}
	if ends := c.Bus.CertificateEnds; ends != nil && time.Until(*ends) < 0 {
		x.add(LevelFail, check, "deploy apply renews it", "its certificate has ended at %s", ends.Format(time.RFC3339))
	}
	if c.Vitals != nil && c.Vitals.DiskBytes > 0 {
		x.free(check, "its disk", c.Vitals.DiskBytes-c.Vitals.DiskUsedBytes)
	}
}

// free judges the room on a disk; it adds nothing if there is enough.
func (x *doctor) free(check, what string, bytes int64) {
	const fix = "free some, or make the disk larger"
	switch {
	case bytes < diskFail:
		x.add(LevelFail, check, fix, "%s has %d MiB left", what, bytes>>20)
	case bytes < diskWarn:
		x.add(LevelWarn, check, fix, "%s has %d MiB left", what, bytes>>20)
	}
}
