// Package templates holds the built-in templates: Terraform modules that make
// the VMs of one infrastructure each, with the contract of CONTRACT.md.
package templates

import "embed"

// FS has a folder for each template, named as in an infrastructure block.
//
//go:embed aws/*.tf gcp/*.tf hcloud/*.tf hosts local libvirt/*.tf libvirt/*.xsl openstack/*.tf proxmox/*.tf
var FS embed.FS
