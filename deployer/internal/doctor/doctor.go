// Package doctor checks everything that an apply needs and everything that runs,
// and changes nothing.
package doctor

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
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/desired"
	"github.com/clusterworks/deploy/deployer/internal/domains"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/source"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// Level is the result of a check.
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

// Diagnosis lists the findings, in the order of the checks.
type Diagnosis struct {
	Deployment string    `json:"deployment,omitempty"` // "" if the manifest is not readable
	Findings   []Finding `json:"findings"`
}

// Failed reports whether any check failed.
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

// Doctor collects findings.
type Doctor struct{ Diagnosis }

func (x *Doctor) add(level Level, check, fix, format string, args ...any) {
	x.Findings = append(x.Findings, Finding{Check: check, Level: level, Message: fmt.Sprintf(format, args...), Fix: fix})
}

// Problem adds a failure, or nothing; the error says what to do itself.
func (x *Doctor) Problem(check string, err error) bool {
	if err != nil {
		x.add(LevelFail, check, "", "%s", strings.TrimSpace(err.Error()))
	}
	return err != nil
}

// Machine checks what every deployment needs of this machine: the engine, the
// built packages in a folder, the kernel and its limits.
func (x *Doctor) Machine(ctx context.Context, built string) {
	x.engine(ctx)
	x.packages(built)
	x.machine()
}

// Deployment has the parts of a deployment that are examined.
type Deployment struct {
	Session     *session.Session
	Credentials *credentials.Credentials
	Packages    *source.Packages
	Fleet       *fleet.Fleet
	Desired     *desired.Renderer
}

// Examine checks a deployment and all that runs of it.
func (x *Doctor) Examine(ctx context.Context, d Deployment) {
	x.manifest(d)
	if !d.Session.Fresh {
		x.Files(d.Session.Store)
	}
	x.Problem("engine's state", infra.CheckEngine(d.Session))
	x.defaults(d.Session)
	x.ports(d.Session)
	if len(d.Session.State.VMs) == 0 {
		x.add(LevelOK, "agents", "", "nothing is deployed yet")
		return
	}
	x.certificates(d.Session)
	inventories := d.Fleet.Survey(ctx, fleet.Patient)
	x.later(d, inventories)
	x.levels(d.Desired.Levels(inventories))
	x.bus(d, inventories)
	x.agents(ctx, d)
}

// defaults tells what is open because it was so by default when an earlier version
// made the deployment.
func (x *Doctor) defaults(s *session.Session) {
	if !s.State.Earlier() {
		return
	}
	for _, p := range s.Manifest.EarlierDefaults() {
		x.add(LevelWarn, "defaults", fmt.Sprintf("when an apply has updated all instances, set %s = %s in job %q of group %q", p.Property, p.Now, p.Job, p.Group),
			"%s of job %s in group %s is %s, the default of the version that made this deployment; new ones are closed", p.Property, p.Job, p.Group, p.Value)
	}
}

func (x *Doctor) engine(ctx context.Context) {
	engine, err := terraform.Find(ctx, terraform.FindOptions{NoBuild: true})
	switch {
	case err == nil:
		x.add(LevelOK, "engine", "", "%s %s (%s)", engine.Name, engine.Version, engine.Path)
	case errors.Is(err, terraform.ErrNotBuilt):
		x.add(LevelWarn, "engine", "install OpenTofu or Terraform to save the time", "none on PATH: the first apply builds OpenTofu, which takes some minutes")
	default:
		x.Problem("engine", err)
	}
}

// packages reads every built file.
func (x *Doctor) packages(folder string) {
	index, err := packages.Open(folder)
	if x.Problem("packages", err) {
		return
	}
	for _, p := range index.Platforms() {
		names := p.Programs()
		agent, err := p.Agent()
		bad := x.Problem("packages", err)
		if err == nil {
			bad = x.Problem("packages", agent.Verify())
		}
		for _, name := range names {
			blob, err := p.Program(name)
			if err == nil {
				err = blob.Verify()
			}
			bad = x.Problem("packages", err) || bad
		}
		if !bad {
			x.add(LevelOK, "packages", "", "%s/%s: the agent and %s are whole", p.OS, p.Arch, strings.Join(names, ", "))
		}
	}
}

func (x *Doctor) manifest(d Deployment) {
	wanted, err := d.Desired.Render(nil)
	if x.Problem("manifest", err) {
		return
	}
	x.add(LevelOK, "manifest", "", "%s, %s, all templates render", session.Count(len(d.Session.Manifest.Groups), "group"), session.Count(len(wanted), "instance"))
}

// State checks the folder of the state, which holds every secret of the deployment.
func (x *Doctor) State(store state.Store) {
	dir := store.Dir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		x.writable("state", nearest(dir))
		x.disk("state", nearest(dir))
		return
	}
	if x.Problem("state", err) {
		return
	}
	ok := x.writable("state", dir)
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		ok = false
		x.add(LevelFail, "state", "chmod 700 "+dir, "others may look into the folder %s (mode %04o), which holds secrets", dir, mode)
	}
	if ok {
		x.add(LevelOK, "state", "", "%s is writable and private", dir)
	}
	if h := store.Holder(); h.PID != 0 {
		x.add(LevelWarn, "lock", "wait for it, or end it if it hangs: the next apply continues", "%s works on this deployment", h)
	}
	x.disk("state", dir)
}

// nearest returns the folder, or the first above it that exists.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (x *Doctor) writable(check, dir string) bool {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		x.add(LevelFail, check, "make it writable for this user, or choose another with --state", "cannot write into %s: %v", dir, err)
	}
	return err == nil
}

// certificates reports until when what the deployment has signed is valid.
func (x *Doctor) certificates(s *session.Session) {
	type group struct {
		check, fix string
		texts      map[string]string // PEM by name
	}
	groups := []group{
		{"CA", "deploy rotate-ca makes a new one", map[string]string{"the deployment's CA": s.Secrets.CA.Certificate}},
		{"agents' certificates", "deploy apply renews it", map[string]string{}},
		{"jobs' certificates", "deploy apply renews it", map[string]string{}},
		{"secrets' certificates", "deploy secret rotate makes a new one", map[string]string{}},
		{"domains' certificates", "deploy apply renews one of the deployment's CA, deploy domains --renew one of an ACME CA; replace the files of another, and apply", map[string]string{}},
	}
	for id, c := range s.Secrets.Agents {
		groups[1].texts["the agent of "+id] = c.Certificate
	}
	for name, c := range s.Secrets.Certificates {
		groups[2].texts[name] = c.Certificate
	}
	for _, domain := range s.Manifest.Domains {
		if pair, _, ok := domains.Pair(domain, s.Secrets); ok && domain.TLS.Kind != manifests.TLSSecret {
			groups[4].texts["domain "+domain.Name] = pair.Certificate
		}
	}
	for name, attributes := range s.Secrets.Values {
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
			old, err := pki.NeedsRenewal([]byte(text), s.Now)
			switch {
			case certificate.NotAfter.Before(s.Now):
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

// levels tells what machines offer jobs, such as how well they keep apps apart, and
// where that is less than the manifest requires.
func (x *Doctor) levels(reports []plan.LevelReport) {
	for _, r := range plan.BelowLeast(reports) {
		x.add(LevelFail, r.Name, "change the machine, or the job's property "+r.Name, "%s of job %s on %s is %s, less than %s, which the manifest requires", r.Name, r.Job, r.Instance, r.Level, r.Least)
	}
	for _, line := range plan.SummarizeLevels(reports) {
		name, what, _ := strings.Cut(line, ": ")
		x.add(LevelOK, name, "", "%s", what)
	}
}

func (x *Doctor) bus(d Deployment, inventories map[string]*api.Inventory) {
	if len(d.Session.State.Bus) == 0 {
		x.add(LevelOK, "bus", "", "the deployment has none; agents are asked over SSH")
		return
	}
	urls := strings.Join(d.Session.State.Bus, ", ")
	connected, err := d.Fleet.BusError()
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
	x.add(LevelOK, "bus", "", "%s serves; %d of %d agents are on it", urls, on, len(d.Session.State.VMs))
}

// checkup is an agent's answer and its clock beside ours.
type checkup struct {
	api.Inventory
	offset time.Duration // of its clock, ahead of ours
	took   time.Duration
}

func (x *Doctor) agents(ctx context.Context, d Deployment) {
	want, blobErr := d.Packages.Agent()
	answers := fleet.Ask(ctx, d.Fleet, func(ctx context.Context, agent *client.Client) (checkup, error) {
		if _, err := agent.Inventory(ctx); err != nil { // the connection is made before the clock is asked
			return checkup{}, err
		}
		begin := time.Now()
		inv, err := agent.Inventory(ctx)
		took := time.Since(begin)
		return checkup{inv, inv.Now.Sub(begin.Add(took / 2)), took}, err
	})
	for _, a := range answers {
		check := "agent " + a.Instance
		if a.Err != nil {
			fix := "look at the VM: deploy ssh MANIFEST " + a.Instance + "; deploy apply puts the agent back"
			switch {
			case d.Session.Distrusted.Of(a.Instance) != nil:
				fix = "deploy recreate MANIFEST " + a.Instance
			case d.Fleet.Unreachable(a.Instance):
				fix = "nothing listens at its address: deploy plan asks the engine whether the VM is gone, deploy apply starts it or makes it anew"
			}
			x.add(LevelFail, check, fix, "%v", a.Err)
			continue
		}
		before := len(x.Findings)
		x.agent(check, a.Value, blobErr == nil && a.Value.Agent.Digest != want.Digest)
		if len(x.Findings) == before {
			x.add(LevelOK, check, "", "version %s, %s, clock %+d ms", a.Value.Agent.Version, a.Value.State, a.Value.offset.Milliseconds())
		}
	}
}

// agent adds what is wrong with one that answers.
func (x *Doctor) agent(check string, c checkup, outdated bool) {
	if outdated {
		x.add(LevelWarn, check, "deploy apply updates it; no process is touched", "it runs another version (%s) than the one built", c.Agent.Version)
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
	if len(c.Agent.Damaged) > 0 {
		x.add(LevelFail, check, "deploy apply repairs it", "of the agent's own files: %s", strings.Join(c.Agent.Damaged, "; "))
	}
	if c.Agent.DiskGone != "" {
		x.add(LevelFail, check, "bring the disk back; deploy apply --accept-data-loss makes an empty one", "%s", infra.DiskGone(c.Agent.DiskGone))
	}
	if c.Interrupted {
		x.add(LevelWarn, check, "deploy apply continues it", "an update began and did not succeed")
	}
	if n := len(slices.DeleteFunc(slices.Clone(c.Drift), func(d api.Drift) bool { return d.Left })); n > 0 {
		x.add(LevelWarn, check, "deploy status --drift shows all, deploy apply repairs it", "%d of its paths were changed by hand: %s, ...", n, c.Drift[0])
	}
	if len(c.Bus.URLs) > 0 && !c.Bus.Connected {
		x.add(LevelWarn, check, "the agent keeps trying; deploy apply gives it new settings if these are old", "it is not on the bus: %s", c.Bus.Error)
	}
	if ends := c.Bus.CertificateEnds; ends != nil && time.Until(*ends) < 0 {
		x.add(LevelFail, check, "deploy apply renews it", "its certificate has ended at %s", ends.Format(time.RFC3339))
	}
	if c.Vitals != nil && c.Vitals.DiskBytes > 0 {
		x.free(check, "its disk", c.Vitals.DiskBytes-c.Vitals.DiskUsedBytes)
	}
}

// free judges the room on a disk; it adds nothing if there is enough.
func (x *Doctor) free(check, what string, bytes int64) {
	const fix = "free some, or make the disk larger"
	switch {
	case bytes < diskFail:
		x.add(LevelFail, check, fix, "%s has %d MiB left", what, bytes>>20)
	case bytes < diskWarn:
		x.add(LevelWarn, check, fix, "%s has %d MiB left", what, bytes>>20)
	}
}
