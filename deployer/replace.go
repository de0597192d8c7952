package deployer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// madeOf is state.VM.Input: what a VM was made of, as last rolled.
type madeOf struct {
	VM   terraform.InstanceInput `json:"vm"`
	Disk *terraform.DiskInput    `json:"disk,omitempty"`
}

func madeOfVM(in terraform.Input, id string) madeOf {
	m := madeOf{VM: in.Instances[id]}
	if d := in.Disks[id]; d.Attached {
		m.Disk = &d
	}
	return m
}

func (m madeOf) into(in *terraform.Input, id string) {
	in.Instances[id] = m.VM
	if d, ok := in.Disks[id]; m.Disk != nil {
		in.Disks[id] = *m.Disk
	} else if ok {
		d.Attached = false // it is there when the VM's turn comes
		in.Disks[id] = d
	}
}

// lastRolled is what an instance's VM was made of.
func (r *run) lastRolled(id string) (madeOf, error) {
	var m madeOf
	if err := json.Unmarshal(r.state.VMs[id].Input, &m); err != nil {
		return m, fmt.Errorf("cannot read how the VM of %s was made: %w", id, err)
	}
	return m, nil
}

// changes says in which inputs m differs from what is wanted.
func (m madeOf) changes(wanted madeOf) []string {
	var out []string
	differ := func(name string, was, is any) {
		if was != is {
			out = append(out, fmt.Sprintf("%s %v -> %v", name, was, is))
		}
	}
	a, b := m.VM, wanted.VM
	differ("az", quoted(a.AZ), quoted(b.AZ))
	differ("cpus", a.CPUs, b.CPUs)
	differ("memory_mb", a.MemoryMB, b.MemoryMB)
	differ("disk_gb", a.DiskGB, b.DiskGB)
	differ("image", quoted(a.Image), quoted(b.Image))
	if !maps.Equal(a.Options, b.Options) {
		out = append(out, "options")
	}
	differ("network", quoted(a.Network), quoted(b.Network))
	differ("static_address", quoted(a.StaticAddress), quoted(b.StaticAddress))
	size := func(d *terraform.DiskInput) string {
		if d == nil {
			return "none"
		}
		return fmt.Sprintf("%d GB", d.SizeGB)
	}
	differ("disk", size(m.Disk), size(wanted.Disk))
	return out
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// notePlannedVMs remembers what the engine would do to the VMs if all wanted
// inputs took effect at once: which inputs are for the rollout to bring, batch
// by batch, and what of the VMs' addresses is known before.
func (r *run) notePlannedVMs(in terraform.Input, p *terraform.Plan) error {
	known := knownDisks(r.state)
	r.lostDisks = map[string]bool{}
	for _, c := range p.Changes {
		if _, was := known[c.Key]; was && c.Name == terraform.DiskResource && c.Action == terraform.Create {
			r.lostDisks[c.Key] = true
		}
		if c.Name != terraform.DiskResource {
			r.enginePlan[c.Key] = append(r.enginePlan[c.Key], c.Action)
		}
	}
	r.owedVMs, r.movedVMs, r.plannedVMs = map[string][]string{}, map[string]bool{}, map[string]terraform.Instance{}
	r.beside = map[string]bool{}
	for id := range r.state.VMs {
		if !r.touches(id) {
			continue
		}
		was, err := r.lastRolled(id)
		if err != nil {
			return err
		}
		changes := was.changes(madeOfVM(in, id))
		if slices.Contains(r.recreate, id) {
			changes = append(changes, "another one is asked for")
		}
		actions := r.enginePlan[id]
		replaced := slices.Contains(actions, terraform.Replace)
		switch {
		case len(changes) > 0 && (replaced || slices.Contains(actions, terraform.Update) || slices.Contains(actions, terraform.Delete)):
			r.owedVMs[id] = changes
			if replaced && r.mayGoBeside(id, was, madeOfVM(in, id), p.Instances[id]) {
				r.beside[id] = true
			}
		case replaced:
			r.movedVMs[id] = true
		}
		if replaced {
			r.plannedVMs[id] = p.Instances[id]
		}
	}
	return nil
}

// replaceCauses says why an instance gets another VM, nil if it does not, and
// whether that one is elsewhere.
func (r *run) replaceCauses(id string) (out []string, moved bool) {
	p, planned := r.plannedVMs[id]
	moved = planned && p.Address != "" && p.Address != r.state.VMs[id].Address
	if r.movedVMs[id] && slices.Contains(r.recreate, id) {
		return []string{"VM: another one is asked for"}, moved
	}
	if r.movedVMs[id] {
		return []string{"VM: the infrastructure's settings ask for another one; what is due to them is not rolled but done at once"}, moved
	}
	for _, c := range r.owedVMs[id] {
		if !slices.Contains(r.enginePlan[id], terraform.Replace) {
			c += " (the VM is changed in place)"
		}
		if r.beside[id] {
			c += " (the new VM is made beside the old one, which goes when all know of it)"
		}
		for _, place := range []string{"az ", "network ", "static_address "} {
			moved = moved || strings.HasPrefix(c, place)
		}
		out = append(out, "VM: "+c)
	}
	return out, moved
}

// recreatable are the instances of targets, which must have a VM to replace.
func (r *run) recreatable(targets []string) ([]string, error) {
	ids, err := r.resolve(targets)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		_, made := r.state.VMs[id]
		switch {
		case !made:
			return nil, fmt.Errorf("cannot recreate %s: it has no VM yet; apply first", id)
		case !r.has(id):
			return nil, fmt.Errorf("cannot recreate %s: the manifest has it no longer, and the next apply removes it", id)
		case slices.Contains(r.state.Ignored, id):
			return nil, fmt.Errorf("cannot recreate %s: it is ignored, which means that nothing touches it; deploy unignore first", id)
		}
	}
	return ids, nil
}

// abandonSilent has the VMs of instances that an operator wants recreated, and
// whose agents do not answer, replaced at once: there is nobody to stop what runs
// there, and nothing that the rollout could wait for.
func (r *run) abandonSilent(inventories map[string]*api.Inventory) {
	for _, id := range r.recreate {
		if _, owed := r.owedVMs[id]; owed && inventories[id] == nil {
			delete(r.owedVMs, id)
			r.movedVMs[id] = true
		}
	}
}

// nextInput is what the template gets while a rollout goes on: wanted inputs
// for the instances whose turn it is, or for which a change of inputs does
// nothing, and what was last rolled for all others.
func (r *run) nextInput(turn []string) (terraform.Input, error) {
	in, err := r.vmInput(r.parted)
	if err != nil {
		return in, err
	}
	for id := range r.owedVMs {
		if slices.Contains(turn, id) {
			continue
		}
		was, err := r.lastRolled(id)
		if err != nil {
			return in, err
		}
		was.into(&in, id)
	}
	return in, nil
}

// scope is what one run of the engine may do to the resources of which
// instances. Resources without an instance's key may always be updated.
type scope struct {
	what    string   // "replace the VMs of router/0"
	replace []string // whose resources may be replaced, deleted, created
	remove  []string // whose resources may be deleted
	disks   []string // whose persistent disks may be deleted
	// lost are the instances whose persistent disk may be made anew, empty.
	lost   map[string]bool
	left   bool // machines that outlive their instances were left already
	create bool // others that are missing may be created
	update bool // others may be updated
}

// check refuses a plan that goes beyond its scope.
func (s scope) check(changes []terraform.Change, in terraform.Input, st *state.State) error {
	vms, disks := st.VMs, knownDisks(st)
	for _, c := range changes {
		if had, was := disks[c.Key]; was && c.Name == terraform.DiskResource && c.Action == terraform.Create && !s.lost[c.Key] {
			return fmt.Errorf("cannot %s: the persistent disk of %s (%s) is gone, and an empty one would take its place; nothing was done: bring it back, or apply again with --accept-data-loss", s.what, c.Key, had.Folder)
		}
		_, wanted := in.Instances[c.Key]
		_, known := vms[c.Key]
		_, disk := in.Disks[c.Key]
		ours := wanted || known || disk
		inTurn := slices.Contains(s.replace, c.Key)
		var allowed bool
		switch {
		case c.Name == terraform.DiskResource && c.Action == terraform.Replace:
		case c.Name == terraform.DiskResource && c.Action == terraform.Delete:
			allowed = slices.Contains(s.disks, c.Key) && !disk
		case c.Action == terraform.Delete || c.Action == terraform.Replace:
			allowed = inTurn || c.Action == terraform.Delete && slices.Contains(s.remove, c.Key) || !ours && s.create
		case c.Action == terraform.Create:
			allowed = s.create || inTurn
		case c.Action == terraform.Update:
			allowed = s.update || inTurn || !ours
		}
		if !allowed {
			return fmt.Errorf("cannot %s: the engine's plan would also %s %s, which is not meant; nothing was done: if it was changed or removed by hand, apply again, which plans for it anew", s.what, c.Action, c.Address)
		}
	}
	return nil
}

// replaceVMs brings the wanted inputs to the VMs of a batch, and makes of new
// VMs what can be rolled out to.
func (x *executor) replaceVMs(ctx context.Context, c rollout.Command) error {
	ids := c.Instances
	for _, id := range ids {
		if x.isLeaving(id) { // a third one finds no place
			if err := x.partWithOld(ctx, id); err != nil {
				return err
			}
		}
	}
	in, err := x.nextInput(ids)
	if err != nil {
		return err
	}
	before := map[string]state.VM{}
	for _, id := range ids {
		before[id] = x.fleet.vm(id)
		if x.goesBeside[id] {
			if err := x.makeBeside(&in, id); err != nil {
				return err
			}
		}
	}
	applied, err := x.applyVMs(ctx, in, scope{what: "replace the VMs of " + strings.Join(ids, ", "), replace: ids})
	if err != nil {
		if !applied {
			x.startAgain(ctx, c)
		}
		return err
	}
	x.mu.Lock()
	for _, id := range ids {
		if i := slices.Index(x.recreate, id); i >= 0 {
			x.recreate = slices.Delete(x.recreate, i, i+1)
			x.fleet.forget(id) // a machine that stays has the same id, and another agent
		}
	}
	x.mu.Unlock()
	for _, id := range ids {
		delete(x.owedVMs, id)
		x.addressesChanged = x.addressesChanged || x.fleet.vm(id).Address != before[id].Address
	}
	if err := x.bootstrapVMs(ctx, ids); err != nil {
		return err
	}
	if err := x.identifyVMs(ctx, ids); err != nil {
		return err
	}
	return x.renderAgain(ids)
}

// startAgain starts what was stopped for new VMs that do not come.
func (x *executor) startAgain(ctx context.Context, c rollout.Command) {
	// Best effort: what it does not manage, the next apply does.
	_ = x.parallel(ctx, len(c.Instances), func(ctx context.Context, i int) error {
		id := c.Instances[i]
		if x.from[id] == "" || x.goesBeside[id] {
			return nil
		}
		s := x.submission(id, c.OpID+".back."+api.SubjectToken(id))
		s.Kind, s.Update = api.KindUpdate, &api.Update{Generation: x.from[id], DeadlineMS: stopLimit.Milliseconds(), Next: "update"}
		e := Event{Phase: PhaseRollout, Instance: id, Step: "start", Done: true, Message: "its VM stays, so what was stopped is started again"}
		if err := x.submit(ctx, id, s); err != nil {
			e.Done, e.Error = false, err.Error()
		}
		x.event(e)
		return nil
	})
}

// renderAgain makes what instances get fit their new VMs.
func (x *executor) renderAgain(ids []string) error {
	x.vmsMu.Lock()
	err := x.issueCertificates()
	x.vmsMu.Unlock()
	if err != nil {
		return err
	}
	wanted, err := x.wanted()
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range wanted {
		if id := wanted[i].Spec.Instance; slices.Contains(ids, id) {
			if !wanted[i].Known {
				return fmt.Errorf("cannot roll out %s: something of it is still unknown although its VM exists", id)
			}
			x.specs[id] = &wanted[i].Spec
			x.replaced[id] = true
		}
	}
	return nil
}

// followAddresses brings addresses that changed with replaced VMs to whoever
// refers to them, and goes on with those that wait for that to move.
func (r *run) followAddresses(ctx context.Context, approved *plan.Plan, approve Approve) error {
	for r.addressesChanged || r.movesWait || len(r.toPartWith()) > 0 {
		if r.interrupted() {
			return ErrInterrupted
		}
		// Everybody learns where these are before the next ones go.
		r.holdMoves = r.addressesChanged || len(r.toPartWith()) > 0
		r.addressesChanged, r.movesWait = false, false
		// Agents first: when the bus moves, they are reached over it.
		if err := r.connectAgents(ctx); err != nil {
			return err
		}
		p, err := r.refine(ctx, approved, approve)
		if err != nil {
			return err
		}
		if err := r.deliver(ctx, p); err != nil {
			return err
		}
		if err := r.roll(ctx, p); err != nil {
			return err
		}
		for _, id := range r.toPartWith() {
			if err := r.takesOver(ctx, id); err != nil {
				return err
			}
			if err := r.partWithOld(ctx, id); err != nil {
				return err
			}
			r.addressesChanged = true
		}
	}
	return nil
}

// firstMoves leaves of a group's instances that move elsewhere only as many as
// may be in flight at once, none while others have yet to learn where the last
// ones are. The rest waits: else a group of which each instance is replaced by one elsewhere (the
// servers of the bus) would at the end be at addresses that nobody knows.
func (r *run) firstMoves(g *rollout.Group, changes []plan.InstanceChange) {
	left := max(1, g.Policy.MaxInFlight)
	if r.holdMoves {
		left = 0
	}
	for i := range g.Instances {
		moves := slices.ContainsFunc(changes, func(c plan.InstanceChange) bool { return c.Instance == g.Instances[i].ID && c.Action == plan.Move })
		switch {
		case !moves || g.Instances[i].Action != rollout.ActionRecreate:
		case left > 0:
			left--
		default:
			g.Instances[i].Action, g.Instances[i].Exempt = rollout.ActionNone, true // its turn comes
			r.movesWait = true
		}
	}
}
