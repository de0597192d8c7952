package render

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/manifests"
)

// Wanted is an instance to render.
type Wanted struct {
	Group    *manifests.Group
	Instance manifests.Instance
}

// mostTwice is the number of instances that are rendered a second time: of more, those
// that the content itself picks. What is not deterministic shows in one of so many, and
// a plan of ten thousand costs a quarter less.
const mostTwice = 1000

// All renders instances side by side and returns them in their order. Whatever
// was not kept from before is rendered a second time, up to mostTwice, by itself and in another
// order, which depends on the rendered content only. A difference is an error,
// since every digest relies on there being none.
func (r *Renderer) All(wanted []Wanted) ([]*Instance, []hcl.Diagnostics) {
	out := make([]*Instance, len(wanted))
	diags := make([]hcl.Diagnostics, len(wanted))
	fresh := make([]bool, len(wanted))
	sideBySide(len(wanted), func(i int) {
		out[i], fresh[i], diags[i] = r.instance(wanted[i].Group, wanted[i].Instance)
	})
	var again []int
	for i := range wanted {
		if fresh[i] && !diags[i].HasErrors() {
			again = append(again, i)
		}
	}
	if len(again) == 0 {
		return out, diags
	}
	order := r.mac("order of the second rendering")
	for _, i := range again {
		fmt.Fprintln(order, out[i].Spec.Instance, out[i].Spec.Generation)
	}
	shuffle := rand.New(rand.NewChaCha8([32]byte(order.Sum(nil))))
	shuffle.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
	again = again[:min(len(again), mostTwice)]
	second := *r
	second.cache = newCache()
	second.cache.jobs = nil // compared and dropped: thousands would be kept twice
	r.cache.mu.Lock()
	second.cache.templates = maps.Clone(r.cache.templates) // parsed by now
	r.cache.mu.Unlock()
	checker := second.With(r.facts, r.packages)
	sideBySide(len(again), func(k int) {
		i := again[k]
		other, _ := checker.Instance(wanted[i].Group, wanted[i].Instance)
		if what := difference(out[i], other); what != "" {
			diags[i] = append(diags[i], &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Rendering is not deterministic",
				Detail:  fmt.Sprintf("Rendered twice from the same values, %s came out differently. Nothing can be compared that way; this is an error in deploy.", what),
				Subject: wanted[i].Group.Range.Ptr(),
			})
		}
	})
	return out, diags
}

// difference names what differs, "" if nothing does.
func difference(a, b *Instance) string {
	for key, text := range a.Files {
		if !slices.Equal(b.Files[key], text) {
			return key.Job + "/" + key.Path
		}
	}
	if !reflect.DeepEqual(a.Spec, b.Spec) {
		return "the specification"
	}
	return ""
}

// sideBySide calls f for 0..n-1 on all processors.
func sideBySide(n int, f func(int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	group.Wait()
}
