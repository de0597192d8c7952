// Package stemcells has recipes of the images that VMs boot, and their tests.
package stemcells
