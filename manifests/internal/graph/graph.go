// Package graph orders names by what they require.
package graph

import "slices"

// Waves puts names into as few waves as possible so that each requires only
// names of earlier waves; within a wave names keep their order. Edges to
// unknown names are not counted.
//
// What cannot be ordered is returned as cycles: each as the names along it, in
// the order of the edges, the first one not repeated at the end. Names on or
// behind a cycle are in no wave.
func Waves(names []string, requires map[string][]string) (waves [][]string, cycles [][]string) {
	left := make(map[string]bool, len(names))
	for _, n := range names {
		left[n] = true
	}
	for len(left) > 0 {
		var wave []string
		for _, n := range names {
			waits := func(r string) bool { return left[r] }
			if left[n] && !slices.ContainsFunc(requires[n], waits) {
				wave = append(wave, n)
			}
		}
		if len(wave) == 0 {
			return waves, findCycles(names, requires, left)
		}
		for _, n := range wave {
			delete(left, n)
		}
		waves = append(waves, wave)
	}
	return waves, nil
}

// findCycles follows edges among the names left, each name once: every
// group of names that require each other yields at least one cycle.
func findCycles(names []string, requires map[string][]string, left map[string]bool) [][]string {
	var cycles [][]string
	done := map[string]bool{}
	var path []string
	var visit func(n string)
	visit = func(n string) {
		if i := slices.Index(path, n); i >= 0 {
			cycles = append(cycles, slices.Clone(path[i:]))
			return
		}
		if done[n] {
			return
		}
		done[n] = true
		path = append(path, n)
		for _, r := range requires[n] {
			if left[r] {
				visit(r)
			}
		}
		path = path[:len(path)-1]
	}
	for _, n := range names {
		if left[n] {
			visit(n)
		}
	}
	return cycles
}
