package render

import (
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests"
)

// Part is a piece of a job's spec that is made of inputs: a file, or a process
// (its command and environment).
type Part struct {
	Job  string
	Kind string // PartFile, PartProcess
	Name string // path of the file, name of the process
}

// The kinds of parts.
const (
	PartFile    = "file"
	PartProcess = "process"
)

// references are the inputs that a job's spec refers to.
type references struct {
	parts map[Part][]string // sorted
	all   []string          // sorted; also what no part names, such as hooks
}

// references finds what the expressions of a job refer to.
func (r *Renderer) references(job *manifests.Job) *references {
	r.cache.mu.Lock()
	had := r.cache.references[job]
	r.cache.mu.Unlock()
	if had != nil {
		return had
	}
	all := map[string]bool{}
	names := func(expressions ...hcl.Expression) []string {
		found := map[string]bool{}
		for _, e := range expressions {
			if e == nil {
				continue
			}
			for _, t := range e.Variables() {
				found[inputName(t)] = true
			}
		}
		maps.Copy(all, found)
		return slices.Sorted(maps.Keys(found))
	}
	out := &references{parts: map[Part][]string{}}
	for _, t := range job.Templates {
		source := templateInput + t.Source
		all[source] = true
		found := []string{source}
		if p := r.template(job, t); p.expr != nil {
			found = append(found, names(p.expr)...)
		}
		slices.Sort(found)
		out.parts[Part{job.Name, PartFile, t.Destination}] = found
	}
	var restart []string // properties whose change restarts all processes
	for _, p := range job.Properties {
		if p.OnChange == "restart" {
			restart = append(restart, "property."+p.Name)
			all["property."+p.Name] = true
		}
	}
	for _, p := range job.Processes {
		used := append(names(p.Command, p.Env, p.User, p.Dir, p.RestartOn), restart...)
		slices.Sort(used)
		out.parts[Part{job.Name, PartProcess, p.Name}] = slices.Compact(used)
		for _, c := range p.Checks {
			names(c.Target, c.Host, c.Command)
		}
		if p.Reload != nil {
			names(p.Reload.Command, p.Reload.Verify)
		}
		for _, t := range p.Routes {
			names(t.Host, t.Port, t.User, t.Password)
		}
	}
	for _, h := range job.Hooks {
		names(h.Command, h.Env)
	}
	for _, l := range job.Listens {
		names(l.Port)
	}
	if m := job.Mbus; m != nil {
		used := names(m.Servers, m.User, m.Password, m.Scheme)
		for _, p := range job.Processes { // they read what is rewritten
			part := Part{job.Name, PartProcess, p.Name}
			both := append(slices.Clone(out.parts[part]), used...)
			slices.Sort(both)
			out.parts[part] = slices.Compact(both)
		}
	}
	out.all = slices.Sorted(maps.Keys(all))
	r.cache.mu.Lock()
	r.cache.references[job] = out
	r.cache.mu.Unlock()
	return out
}

// templateInput begins the names of inputs that are a template's own text.
const templateInput = "template."

// inputName names what a traversal refers to: "property.port",
// "link.bus.instances", "link.bus.property.port".
func inputName(t hcl.Traversal) string {
	depth := 2
	name := []string{t.RootName()}
	for _, step := range t[1:] {
		if len(name) == depth {
			break
		}
		var next string
		switch s := step.(type) {
		case hcl.TraverseAttr:
			next = s.Name
		case hcl.TraverseIndex:
			if s.Key.Type() != cty.String {
				return strings.Join(name, ".")
			}
			next = s.Key.AsString()
		default:
			return strings.Join(name, ".")
		}
		name = append(name, next)
		if name[0] == "link" && len(name) == 2 {
			depth = 3
		}
		if name[0] == "link" && len(name) == 3 && next == "property" {
			depth = 4
		}
	}
	return strings.Join(name, ".")
}

// inputs are the digests of values that several instances share.
type inputs struct {
	mu     sync.Mutex
	shared map[sharedInput]input
}

type sharedInput struct {
	job  *manifests.GroupJob
	name string
}

type input struct {
	digest string
	known  bool
}

// inputsOf are the digests of what a job on an instance refers to, empty where
// it is not known yet, and one over all that goes into rendering it.
func (r *Renderer) inputsOf(in manifests.Instance, job *manifests.GroupJob, ctx *hcl.EvalContext, refs *references) (map[string]string, string) {
	values := make(map[string]string, len(refs.all))
	all := r.mac("inputs")
	fmt.Fprintf(all, "%q %d %q %q %q\n", in.Group, in.Index, in.Address, in.AgentDir, in.ImageDir)
	for _, p := range job.Spec.Packages {
		found, ok := manifests.FindPackage(job.Spec, p.Program, r.packages)
		fmt.Fprintf(all, "%q %q %d %t\n", p.Name, found.Digest, found.Size, ok)
	}
	for _, name := range refs.all {
		x := r.input(job, ctx, name)
		fmt.Fprintf(all, "%s %s\n", name, x.digest)
		values[name] = ""
		if x.known {
			values[name] = x.digest
		}
	}
	return values, hex.EncodeToString(all.Sum(nil))
}

func (r *Renderer) input(job *manifests.GroupJob, ctx *hcl.EvalContext, name string) input {
	root, _, _ := strings.Cut(name, ".")
	// A job with a user of its own on the bus has another link on each instance.
	shared := root == "link" && !job.Spec.OwnBusUser() || root == "bus" || root == "deployment" || root == "group" || root == "template" || root == "property" && !job.PerInstance()
	key := sharedInput{job, name}
	if shared {
		r.inputs.mu.Lock()
		had, ok := r.inputs.shared[key]
		r.inputs.mu.Unlock()
		if ok {
			return had
		}
	}
	mac := r.mac("input")
	x := input{known: true}
	if source, ok := strings.CutPrefix(name, templateInput); ok {
		r.cache.mu.Lock()
		if p := r.cache.templates[templateKey{job.Spec, source}]; p != nil {
			mac.Write(p.source)
		}
		r.cache.mu.Unlock()
	} else {
		x.known = hashValue(mac, lookUp(ctx, strings.Split(name, ".")))
	}
	x.digest = hex.EncodeToString(mac.Sum(nil)[:8])
	if shared {
		r.inputs.mu.Lock()
		r.inputs.shared[key] = x
		r.inputs.mu.Unlock()
	}
	return x
}

// lookUp finds a value as far down as there are attributes.
func lookUp(ctx *hcl.EvalContext, name []string) cty.Value {
	v, ok := ctx.Variables[name[0]]
	if !ok {
		return cty.NilVal
	}
	for _, attribute := range name[1:] {
		inner, marks := v.Unmark()
		if inner.IsNull() || !inner.IsKnown() || !inner.Type().IsObjectType() || !inner.Type().HasAttribute(attribute) {
			return v
		}
		v = inner.GetAttr(attribute).WithMarks(marks)
	}
	return v
}

// hashValue feeds a value, its marks included, and tells whether all of it is
// known.
func hashValue(h hash.Hash, v cty.Value) (known bool) {
	if v == cty.NilVal {
		h.Write([]byte("-"))
		return true
	}
	if v.IsMarked() {
		h.Write([]byte("!"))
		v, _ = v.Unmark()
	}
	switch t := v.Type(); {
	case !v.IsKnown():
		h.Write([]byte("?"))
		return false
	case v.IsNull():
		h.Write([]byte("0"))
	case t == cty.String:
		s := v.AsString()
		fmt.Fprintf(h, "%d:%s", len(s), s)
	case t == cty.Number:
		fmt.Fprintf(h, "n%s;", numberText(v))
	case t == cty.Bool:
		fmt.Fprintf(h, "%t;", v.True())
	case v.CanIterateElements():
		h.Write([]byte("("))
		known = true
		for it := v.ElementIterator(); it.Next(); { // sorted where it has no order
			k, e := it.Element()
			if t.IsMapType() || t.IsObjectType() {
				hashValue(h, k)
			}
			known = hashValue(h, e) && known
		}
		h.Write([]byte(")"))
		return known
	}
	return true
}
